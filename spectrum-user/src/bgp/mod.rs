//! What BGP daemons of this host really do with what is announced, as they say themselves: BIRD by its socket, FRR by `vtysh`. Every
//! wait is bounded, and who cannot be asked is told of and no failure. Changes nothing.

mod bird;
mod frr;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::model::{BgpDaemon, PassedOn, Prefix};

/// The socket of BIRD in Debian.
const BIRD_SOCKET: &str = "/run/bird/bird.ctl";

/// The directory with the sockets of FRR's daemons in Debian, and that of the one that speaks BGP.
const FRR_SOCKETS: &str = "/run/frr";
const BGPD_SOCKET: &str = "/run/frr/bgpd.vty";

/// The time that each daemon has for all answers.
const PATIENCE: Duration = Duration::from_secs(2);

/// So many prefixes are asked about.
const PREFIXES: usize = 64;

/// The routing protocol that our routes bear, which daemons are told to look for.
const PROTOCOL: &str = "83";

/// The answers of the daemons that are there about `prefixes`.
pub(crate) fn ask_daemons(prefixes: &BTreeSet<Prefix>) -> Vec<BgpDaemon> {
    let prefixes: Vec<Prefix> = prefixes.iter().copied().take(PREFIXES).collect();
    let until = Instant::now() + PATIENCE;
    let mut daemons = Vec::new();
    if Path::new(BIRD_SOCKET).exists() {
        daemons.push(view("bird", bird::ask(Path::new(BIRD_SOCKET), &prefixes, until)));
    }
    if Path::new(BGPD_SOCKET).exists() {
        daemons.push(view("frr", frr::ask(FRR_SOCKETS, &prefixes, Instant::now() + PATIENCE)));
    }
    // A daemon that was killed leaves its socket behind.
    daemons.into_iter().flatten().collect()
}

/// The answer of a daemon.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct BgpAnswer {
    /// The sessions with routers that are established, of all that are configured.
    established: usize,
    sessions: usize,
    /// The established sessions that BFD watches, and the longest hold time of the others, in seconds.
    watched: usize,
    hold: Option<u64>,
    prefixes: Vec<PassedOn>,
}

/// A reason for having none.
#[derive(Debug, thiserror::Error)]
enum BgpError {
    /// Nobody is there.
    #[error("it does not run")]
    Absent,
    /// It does not say what it should.
    #[error("{0}")]
    Silent(String),
}

fn view(name: &str, answer: Result<BgpAnswer, BgpError>) -> Option<BgpDaemon> {
    let view = BgpDaemon { name: name.to_owned(), ..BgpDaemon::default() };
    match answer {
        Ok(BgpAnswer { established, sessions, watched, hold, prefixes }) => {
            Some(BgpDaemon { established, sessions, watched, hold, prefixes, ..view })
        }
        Err(BgpError::Absent) => None,
        Err(error @ BgpError::Silent(_)) => Some(BgpDaemon { unknown: Some(error.to_string()), ..view }),
    }
}
