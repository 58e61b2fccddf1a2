//! What the privileged tests share: namespaces, the program under test, dialling, and what must be left as it was.
//! Holds no test itself and knows nothing of the program beyond its command line and its answers.
#![allow(
    clippy::expect_used,
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "this is test code: it panics where a test would, and nobody outside the tests calls it"
)]

pub mod admin;
pub mod answer;
pub mod case;
pub mod control;
pub mod datagram;
pub mod datagram_origin;
pub mod datagram_server;
pub mod deadline;
pub mod dial;
pub mod fault;
pub mod fleet;
pub mod foreign_server;
pub mod frame;
pub mod holdings;
pub mod instance;
pub mod judged;
pub mod maps;
pub mod memory;
pub mod mmdb;
pub mod name_server;
pub mod naming;
pub mod netlink;
pub mod netns;
pub mod nft_fault;
pub mod origin;
pub mod path;
pub mod peer;
pub mod random;
pub mod record;
pub mod require;
pub mod scan;
pub mod scene;
pub mod share;
pub mod state;
pub mod test_run;
pub mod verbs;
pub mod veth;
