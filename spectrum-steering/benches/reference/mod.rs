//! The programs of `spectrum-ebpf/src/bin/reference.rs`, with which ours is compared. Measures nothing.
#![allow(dead_code, reason = "each benchmark uses its own part")]

use std::env;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use aya::maps::lpm_trie::Key;
use aya::maps::{LpmTrie, MapData, SockMap};
use aya::programs::SkLookup;
use aya::{Ebpf, EbpfLoader};
use spectrum_steering::model::{PortRange, Protocol};

use crate::bindings::Case;

/// A loaded program of the reference object.
pub(crate) struct Reference {
    ebpf: Ebpf,
    program: &'static str,
}

impl Reference {
    /// The one that passes everything.
    pub(crate) fn empty() -> Self {
        Self::load("empty", 1)
    }

    /// The one that asks a trie, with what is bound at `addresses`, all of it led to `listener`.
    pub(crate) fn filled(case: &Case, addresses: &[IpAddr], listener: &impl AsRawFd) -> Self {
        let ports = case.ports();
        let mut this = Self::load("reference", u32::try_from(addresses.len() * ports.len()).unwrap());
        let mut trie: LpmTrie<MapData, [u8; 20], u32> =
            this.ebpf.take_map("BINDINGS").unwrap().try_into().unwrap();
        for address in addresses {
            for range in &ports {
                let mut data = [0; 20];
                data[0] = match case.protocol {
                    Protocol::Tcp => 6,
                    Protocol::Udp => 17,
                };
                let port = if *range == PortRange::ALL { 0 } else { range.first() };
                data[2..4].copy_from_slice(&port.to_be_bytes());
                let mapped = match address {
                    IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                    IpAddr::V6(v6) => *v6,
                };
                data[4..].copy_from_slice(&mapped.octets());
                trie.insert(&Key::new(160, data), 1 | 128 << 24, 0).unwrap();
            }
        }
        let mut listeners: SockMap<_> = this.ebpf.map_mut("LISTENERS").unwrap().try_into().unwrap();
        listeners.set(1, listener, 0).unwrap();
        this
    }

    /// Attaches it for as long as it lives.
    pub(crate) fn attach(&mut self, netns: impl AsFd) {
        self.loaded().attach(netns).unwrap();
    }

    /// The name of the program.
    pub(crate) fn name(&self) -> &'static str {
        self.program
    }

    /// The program.
    pub(crate) fn program_fd(&self) -> BorrowedFd<'_> {
        self.ebpf.program(self.program).unwrap().fd().unwrap().as_fd()
    }

    /// The number of its runs, and their time altogether.
    pub(crate) fn run_time(&self) -> (u64, Duration) {
        let info = self.ebpf.program(self.program).unwrap().info().unwrap();
        (info.run_count(), info.run_time())
    }

    fn load(program: &'static str, entries: u32) -> Self {
        let object =
            env::var("SPECTRUM_REFERENCE_OBJECT").unwrap_or_else(|_| "target/bpf/reference.o".to_owned());
        let ebpf =
            EbpfLoader::new().btf(None).map_max_entries("BINDINGS", entries).load_file(object).unwrap();
        let mut this = Self { ebpf, program };
        this.loaded().load().unwrap();
        this
    }

    fn loaded(&mut self) -> &mut SkLookup {
        self.ebpf.program_mut(self.program).unwrap().try_into().unwrap()
    }
}
