//! Frames that come to a server's interface as from a driver, and what taking them costs. The interface is one end of a veth pair; they
//! are made by the kernel itself at the other end, so that next to nothing is spent on sending. Does not know what is done with them.

mod sys;

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::process::{self, Command};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, setns};

use xtask::interrupt::Interrupt;
use xtask::namespace;
use xtask::server::Server;
use xtask::shell;

use super::cpu::Meter;
use super::slices::Sample;
use super::station::Station;

/// The interface where the frames come.
pub(super) const INTERFACE: &str = "in0";
/// The sender of all of them.
pub(super) const SOURCE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
/// The destination of all of them: an address of the bound prefix, and a port.
const DIALLED: (Ipv4Addr, u16) = (Ipv4Addr::new(192, 0, 2, 77), 7777);

/// Frames that the kernel makes by one call.
const BATCH: u32 = 4096;

/// The payload of the frames.
#[derive(Clone, Copy, Debug)]
pub(super) enum Knock {
    /// A SYN.
    Syn,
    /// A datagram.
    Datagram,
}

/// A server whose interface gets frames. `serve` starts it in a new namespace; `count` says how many frames it has dropped.
pub(super) fn station(
    name: &'static str,
    knock: Knock,
    interrupt: &Interrupt,
    serve: impl FnOnce(&Interrupt) -> Result<Server> + Send + 'static,
    count: impl Fn() -> Result<u64> + Send + 'static,
) -> Result<Station> {
    let set_up = |interrupt: &Interrupt| Arena::open(interrupt, serve);
    Station::of(name, interrupt, set_up, move |arena, length, meter| {
        arena.slice(knock, length, meter, &count)
    })
}

/// Both ends.
struct Arena {
    own: File,
    outside: File,
    /// Sends whatever it is run on out of the other end.
    program: OwnedFd,
    mac: [u8; 6],
}

impl Arena {
    fn open(
        interrupt: &Interrupt,
        serve: impl FnOnce(&Interrupt) -> Result<Server>,
    ) -> Result<(Server, Self)> {
        let namespace = || File::open("/proc/thread-self/ns/net").context("open the network namespace");
        namespace::enter_another()?;
        let outside = namespace()?;
        namespace::enter_another()?;
        let own = namespace()?;
        let ip = |words: &str| shell::stdout(Command::new("ip").args(words.split(' '))).map(drop);
        let other = format!("/proc/{}/fd/{}", process::id(), outside.as_raw_fd());
        ip(&format!("link add {INTERFACE} type veth peer name out0 netns {other}"))?;
        ip(&format!("addr add 198.51.100.1/24 dev {INTERFACE}"))?;
        ip(&format!("link set {INTERFACE} up"))?;
        // Else the driver takes frames that are no socket buffers where an XDP program is, and nowhere else.
        sys::gather(INTERFACE).context("have the driver take frames")?;
        let mac = mac_of(INTERFACE)?;
        let server = serve(interrupt)?;
        setns(&outside, CloneFlags::CLONE_NEWNET).context("enter the other network namespace")?;
        ip("link set out0 up")?;
        let index = if_nametoindex("out0").context("find out0")?;
        let program = sys::sender(index).context("load a program that sends frames")?;
        Ok((server, Self { own, outside, program, mac }))
    }

    fn slice(
        &self,
        knock: Knock,
        length: Duration,
        meter: &Meter,
        count: impl Fn() -> Result<u64>,
    ) -> Result<Sample> {
        let frame = frame(knock, self.mac);
        let within = |inside: &File| setns(inside, CloneFlags::CLONE_NEWNET).context("enter a namespace");
        within(&self.own)?;
        let dropped = count()?;
        within(&self.outside)?;
        let started = Instant::now();
        let before = meter.read()?;
        let mut frames = 0_u32;
        while started.elapsed() < length {
            sys::send(&self.program, &frame, BATCH).context("send frames")?;
            frames += BATCH;
        }
        let used = meter.read()?.saturating_sub(before);
        let elapsed = started.elapsed();
        within(&self.own)?;
        // What comes while the queue of a CPU is full is nobody's, and is not counted either.
        let dropped = count()?.saturating_sub(dropped);
        anyhow::ensure!(
            dropped > u64::from(frames) / 10 * 9,
            "of {frames} frames {dropped} were dropped by what is measured"
        );
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let count = dropped as f64;
        Ok(Sample { cost: used.as_secs_f64() * 1e9 / count, rate: count / elapsed.as_secs_f64() })
    }
}

fn mac_of(interface: &str) -> Result<[u8; 6]> {
    let shown = shell::stdout(Command::new("ip").args(["link", "show", "dev", interface]))?;
    let typed = shown.split("link/ether ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or_default();
    let bytes: Option<Vec<u8>> = typed.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes
        .and_then(|bytes| bytes.try_into().ok())
        .with_context(|| format!("find the address of {interface} in {shown}"))
}

/// A whole frame with right checksums of IP; those of TCP and UDP are looked at by sockets alone.
fn frame(knock: Knock, mac: [u8; 6]) -> Vec<u8> {
    let (address, port) = DIALLED;
    let mut inside = 4000_u16.to_be_bytes().to_vec();
    inside.extend(port.to_be_bytes());
    let protocol = match knock {
        Knock::Syn => {
            inside.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
            6
        }
        Knock::Datagram => {
            // A checksum of 0 is none.
            inside.extend([0, 20, 0, 0]);
            inside.extend([7; 12]);
            17
        }
    };
    let mut header = vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, protocol, 0, 0];
    header.extend(SOURCE.octets());
    header.extend(address.octets());
    let mut sum: u32 =
        header.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    #[expect(clippy::cast_possible_truncation, reason = "sixteen bits are left")]
    header[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    [&mac[..], &[2, 0, 0, 0, 0, 1], &[0x08, 0x00], &header, &inside].concat()
}
