//! What crosses the kernel boundary, and `steer()`, the one decision. Knows neither sockets nor maps.
#![no_std]
