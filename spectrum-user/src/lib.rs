//! spectrum's loader and proxy: one listening socket for any port on any address of whole IP prefixes.
//!
//! The program is `main.rs`; everything it does is here, so that tests and benchmarks can do the same.

pub mod admin;
mod bgp;
pub mod cli;
pub mod commands;
pub mod config;
pub mod confinement;
pub mod control;
pub mod doctor;
pub mod instance;
pub mod model;
pub mod observe;
pub mod pinned;
pub mod plan;
pub mod registry;
pub mod view;
mod worker_process;
