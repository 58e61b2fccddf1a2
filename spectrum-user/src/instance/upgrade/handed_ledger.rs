//! The handed ledger: what an instance has raised, and what it must know of it, as one version of the program tells it to another that
//! takes its place. docs/upgrade.md says what is in it. Raises nothing.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use serde::{Deserialize, Serialize};

use super::files::FileNumber;
use crate::config::ConfigText;
use crate::instance::denying::HandedDenial;
use crate::model::{
    Destination, DestinationId, Family, InterfaceName, Prefix, RegisteredSocket, Resource, ServiceName,
};
use crate::observe::ProcessNumber;
use crate::registry::{Instance, Mode};
use crate::worker_process::Setting;
use spectrum_steering::dispatcher::{FormerSums, Secret, XdpMode};
use spectrum_steering::host::ListenerAddresses;
use spectrum_steering::tproxy::{HandedRules, HandedTable};

/// The version of the document. Whoever cannot read it does not take over.
pub(crate) const VERSION: u32 = 1;

/// The version of one that says who is denied at run time: a program that does not know of that must not take over.
const WITH_DENIALS: u32 = 2;

/// The version of one that has something pinned: a program that does not know of that would leave it behind.
const WITH_PINS: u32 = 3;

/// The first thing that is read of it.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
struct Preamble {
    /// Its version, whatever else is in it.
    ledger: u32,
}

/// The whole document.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct HandedLedger {
    pub(super) ledger: u32,
    /// The process, which stays the same.
    pub(super) pid: u32,
    /// The version of the program that wrote it.
    pub(super) version: String,
    /// That program, to go back to.
    pub(super) program: FileNumber,
    /// The path that an upgrade without another one goes to.
    pub(super) path: PathBuf,
    /// The words and the environment that that was started with.
    pub(super) words: Vec<OsString>,
    pub(super) environment: Vec<(OsString, OsString)>,
    /// The path of the program that is to take over.
    pub(super) to: PathBuf,
    /// Every descriptor that goes over.
    pub(super) files: Vec<FileNumber>,
    /// The files; none where the command line says it all.
    pub(super) config: Vec<ConfigText>,
    pub(super) revision: u32,
    pub(super) mode: Mode,
    /// The addresses that reloads have forced so far.
    pub(super) force: Vec<String>,
    pub(super) destinations: BTreeMap<DestinationId, Destination>,
    /// The things that are raised, and in how many milliseconds those go that nothing wants.
    pub(super) have: Vec<(Resource, Option<u64>)>,
    /// The revision whose rules steer.
    pub(super) steered: Option<u32>,
    pub(super) claim: HandedClaim,
    pub(super) control: Option<(PathBuf, FileNumber)>,
    pub(super) admin: Option<(SocketAddr, FileNumber)>,
    /// The device by which prefixes are announced.
    #[serde(default)]
    pub(super) announcement: Option<(String, FileNumber)>,
    pub(super) dispatcher: Option<HandedDispatcher>,
    /// The XDP program on interfaces.
    #[serde(default)]
    pub(super) xdp: Vec<HandedXdp>,
    /// The local routes that were added.
    pub(super) routes: Vec<Prefix>,
    pub(super) replies: Vec<Family>,
    pub(super) mark: Option<HandedTable>,
    pub(super) exemption: Option<HandedTable>,
    pub(super) listeners: Vec<HandedListener>,
    pub(super) addresses: ListenerAddresses,
    pub(super) rules: Option<HandedRules>,
    /// The sockets of other programs, by their destinations.
    #[serde(default)]
    pub(super) registered: Vec<(Destination, RegisteredSocket)>,
    /// Those that are closed, of destinations that have had no other since.
    #[serde(default)]
    pub(super) registered_before: Vec<(Destination, RegisteredSocket)>,
    /// The volumes of the book of counters, the current one first.
    pub(super) book: Vec<FileNumber>,
    /// The services whose counters are shown.
    pub(super) known: Vec<ServiceName>,
    /// The services that reloads have removed and that have something open, as far as the reader understands them.
    #[serde(default)]
    pub(super) gone: Vec<serde_json::Value>,
    /// The worker process that serves, if there is one just then.
    pub(super) worker: Option<ParkedWorker>,
    /// Those that drain, and how long they still may, in milliseconds.
    pub(super) leaving: Vec<(ParkedWorker, u64)>,
    /// The ends of worker processes in the last minute: how long ago, in milliseconds.
    pub(super) ends: Vec<u64>,
    pub(super) set_origins: Vec<Setting>,
    /// What was said at run time of whom services let in; none of a version that knows nothing of it.
    #[serde(default)]
    pub(super) denials: Option<Vec<HandedDenial>>,
    /// True if somebody has sent SIGHUP that was not obeyed yet.
    pub(super) reload_waits: bool,
}

#[derive(Debug, Deserialize, Serialize)]
pub(super) struct HandedClaim {
    pub(super) path: PathBuf,
    pub(super) lock: FileNumber,
    pub(super) instance: Instance,
}

#[derive(Debug, Deserialize, Serialize)]
pub(super) struct HandedDispatcher {
    /// None where somebody has detached the program.
    pub(super) link: Option<FileNumber>,
    pub(super) counters: FileNumber,
    pub(super) counted: FormerSums,
    /// The map of listeners, from which sockets of other programs are copied.
    #[serde(default)]
    pub(super) listeners: Option<FileNumber>,
    /// That by which registered sockets share clients.
    #[serde(default)]
    pub(super) secret: Option<Secret>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct HandedXdp {
    pub(super) interface: InterfaceName,
    /// None where the interface is not there.
    pub(super) link: Option<(XdpMode, FileNumber)>,
}

#[derive(Debug, Deserialize, Serialize)]
pub(super) struct HandedListener {
    pub(super) destination: Destination,
    pub(super) address: SocketAddr,
    pub(super) sockets: Vec<FileNumber>,
}

/// A worker process, and where the conversation with it stands.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct ParkedWorker {
    pub(super) pid: i32,
    pub(super) pidfd: FileNumber,
    pub(super) process: ProcessNumber,
    pub(super) stream: FileNumber,
    /// The number of the next message.
    pub(super) next: u64,
    /// The numbers of those that it will answer yet.
    pub(super) awaited: Vec<u64>,
    /// The part of the next message that was heard, and its files.
    pub(super) heard: Vec<u8>,
    pub(super) heard_files: Vec<FileNumber>,
}

/// The document cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandedLedgerError {
    /// Its version is unknown here.
    #[error(
        "read the ledger of the running instance: it is of version {0}, and this program reads version {VERSION}; restart the instance \
         instead"
    )]
    Version(u32),
    /// It makes no sense.
    #[error("read the ledger of the running instance")]
    Senseless(#[source] serde_json::Error),
    /// It is not there.
    #[error("read the ledger of the running instance")]
    Unread(#[source] io::Error),
}

impl HandedLedger {
    /// The version that says as much as `denials`, and whether something `is_pinned`.
    pub(super) fn version_of(denials: &[HandedDenial], is_pinned: bool) -> u32 {
        match (is_pinned, denials) {
            (true, _) => WITH_PINS,
            (false, []) => VERSION,
            (false, _) => WITH_DENIALS,
        }
    }

    /// It in memory that nobody can change.
    pub(super) fn written(&self) -> io::Result<OwnedFd> {
        let file = memfd_create("spectrum-ledger", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        let mut file = File::from(file);
        file.write_all(&serde_json::to_vec(self)?)?;
        fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
        Ok(file.into())
    }

    /// The one in `file`.
    pub(super) fn read(file: BorrowedFd<'_>) -> Result<Self, HandedLedgerError> {
        let mut text = Vec::new();
        // Opened anew, it is read from its beginning.
        File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))
            .and_then(|mut file| file.read_to_end(&mut text))
            .map_err(HandedLedgerError::Unread)?;
        Self::parse(&text)
    }

    fn parse(text: &[u8]) -> Result<Self, HandedLedgerError> {
        let Preamble { ledger } = serde_json::from_slice(text).map_err(HandedLedgerError::Senseless)?;
        if !matches!(ledger, VERSION | WITH_DENIALS | WITH_PINS) {
            return Err(HandedLedgerError::Version(ledger));
        }
        serde_json::from_slice(text).map_err(HandedLedgerError::Senseless)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;
    use spectrum_common::RegisteredId;

    use crate::model::{GroupSocket, Protocol, Weight};
    use crate::plan::firewall::Chain;

    fn ledger() -> HandedLedger {
        let file = |number: i32| serde_json::from_str::<FileNumber>(&number.to_string()).unwrap();
        let destination = Destination {
            service: "web".parse().unwrap(),
            revision: 3,
            family: Family::Ipv6,
            protocol: Protocol::Udp,
        };
        let registered = RegisteredSocket {
            cookie: 0x1f,
            inode: 7,
            address: "[::]:53".parse().unwrap(),
            pid: 12,
            command: "knotd".to_owned(),
            weight: Weight::ONE,
            place: Some(RegisteredId(4096)),
            beside: vec![GroupSocket { cookie: 0x20, inode: 8, place: Some(RegisteredId(4097)) }],
            source: Some("knotd udp 53 weight 9".parse().unwrap()),
        };
        let instance = Instance {
            pid: 7,
            keeper: crate::registry::Keeper::Process,
            started: 9,
            mode: Some(Mode::SkLookup),
            prefixes: vec!["2001:db8::/64".parse().unwrap()],
            chain: Chain::of("3fa2c1"),
        };
        HandedLedger {
            ledger: VERSION,
            pid: 7,
            version: "0.1.0".to_owned(),
            program: file(9),
            path: "/usr/bin/spectrum-user".into(),
            words: vec!["spectrum-user".into(), "--config".into()],
            environment: vec![("PATH".into(), "/bin".into())],
            to: "/tmp/new".into(),
            files: vec![file(9), file(10)],
            config: vec![ConfigText { path: "spectrum.toml".into(), text: "é = \"\0\"\n".to_owned() }],
            revision: 4,
            mode: Mode::SkLookup,
            force: vec!["all".to_owned(), "192.0.2.0/24".to_owned()],
            destinations: [(DestinationId(5), destination.clone())].into(),
            have: vec![
                (Resource::Claim, None),
                (Resource::Route("192.0.2.0/24".parse().unwrap()), Some(2500)),
                (Resource::Connections("old".parse().unwrap(), Family::Ipv4, Protocol::Tcp), Some(7)),
                (Resource::Listener(destination.clone()), None),
                (Resource::Registration(DestinationId(5)), None),
                (Resource::Xdp("eth0".parse().unwrap()), None),
                (Resource::Rules(4), None),
            ],
            steered: Some(4),
            claim: HandedClaim { path: "/run/spectrum/1/3fa2c1.json".into(), lock: file(11), instance },
            control: Some(("/run/spectrum/1/3fa2c1.sock".into(), file(12))),
            admin: Some(("127.0.0.1:9180".parse().unwrap(), file(13))),
            announcement: Some(("spectrum0".to_owned(), file(22))),
            dispatcher: Some(HandedDispatcher {
                link: Some(file(14)),
                counters: file(15),
                counted: FormerSums::default(),
                listeners: Some(file(24)),
                secret: None,
            }),
            xdp: vec![
                HandedXdp { interface: "eth0".parse().unwrap(), link: Some((XdpMode::Native, file(23))) },
                HandedXdp { interface: "eth1".parse().unwrap(), link: None },
            ],
            routes: vec!["192.0.2.0/24".parse().unwrap()],
            replies: vec![Family::Ipv4],
            mark: None,
            exemption: None,
            listeners: vec![HandedListener {
                destination: destination.clone(),
                address: "[::1]:4711".parse().unwrap(),
                sockets: vec![file(16), file(17)],
            }],
            addresses: ListenerAddresses::default(),
            rules: None,
            registered: vec![(destination.clone(), registered.clone())],
            registered_before: vec![(destination.clone(), registered)],
            book: vec![file(18)],
            known: vec!["web".parse().unwrap()],
            gone: vec![serde_json::json!({ "name": "old" })],
            worker: Some(ParkedWorker {
                pid: 8,
                pidfd: file(19),
                process: serde_json::from_str("2").unwrap(),
                stream: file(20),
                next: 99,
                awaited: vec![7],
                heard: vec![0, 255, 7],
                heard_files: vec![file(21)],
            }),
            leaving: Vec::new(),
            ends: vec![100, 2000],
            set_origins: Vec::new(),
            denials: Some(Vec::new()),
            reload_waits: true,
        }
    }

    #[test]
    fn what_is_written_is_what_is_read_and_nobody_changes_it() {
        let before = ledger();
        let file = before.written().unwrap();
        assert!(rustix::io::write(&file, b"x").is_err());
        let after = HandedLedger::read(file.as_fd()).unwrap();
        assert_eq!(format!("{after:?}"), format!("{before:?}"));
        // Once more, since whoever goes back reads it as well.
        HandedLedger::read(file.as_fd()).unwrap();
    }

    #[test]
    fn another_version_is_refused_whatever_else_is_in_it() {
        let error = HandedLedger::parse(b"{\"ledger\":7,\"new\":[]}").unwrap_err().to_string();
        assert!(error.contains("of version 7") && error.contains("reads version 1"), "{error}");
        for text in [&b""[..], b"{}", b"{\"ledger\":1}", b"\x7fELF"] {
            assert!(matches!(HandedLedger::parse(text), Err(HandedLedgerError::Senseless(_))));
        }
    }
}
