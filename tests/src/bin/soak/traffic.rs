//! Clients of both protocols that dial what is bound and what is not, and judge each answer by the scan.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use spectrum_tests::datagram::dropped_by_backlog;
use spectrum_tests::dial::{Heard, exchange};
use spectrum_tests::netns::Netns;
use spectrum_tests::random::Random;
use spectrum_tests::scan::{Protocol, Service, winner};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::arena::{Arena, Between, Traffic};
use super::drawn;
use super::tally::Tally;

const CLIENTS: usize = 12;
const SAID: &str = "is it you?";

/// The time that an echo may take on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(15);

/// The targets of clients, by the clients' addresses, until the records of an instance say what became of it.
#[derive(Debug, Default)]
pub(crate) struct Journal(Mutex<HashMap<SocketAddr, (Protocol, SocketAddr, Between)>>);

impl Journal {
    /// All that was written down, which is then forgotten.
    pub(crate) fn take(&self) -> HashMap<SocketAddr, (Protocol, SocketAddr, Between)> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

/// The outcome for a client.
#[derive(Debug)]
enum Outcome {
    Tcp(io::Result<Heard>),
    Udp(io::Result<SocketAddr>),
}

/// Dials until that is over.
pub(crate) fn run(netns: &Netns, arena: &Arc<Arena>, journal: &Journal, tally: &Tally, mut random: Random) {
    netns.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let mut clients = JoinSet::new();
            let mut number = 0;
            loop {
                match arena.traffic() {
                    Traffic::Flows if clients.len() < CLIENTS => {
                        number += 1;
                        let (protocol, target) = drawn::target(&mut random, &arena.latest());
                        let (arena, count) = (Arc::clone(arena), 1 + random.below::<usize>(3));
                        clients.spawn(async move {
                            let client = drawn::client(number, target);
                            let begun = arena.now();
                            let outcome = match protocol {
                                Protocol::Tcp => Outcome::Tcp(exchange(target, Some(client), SAID).await),
                                Protocol::Udp => Outcome::Udp(echoes(client, target, count).await),
                            };
                            (target, outcome, arena.since(begun))
                        });
                        continue;
                    }
                    Traffic::Over if clients.is_empty() => return,
                    Traffic::Halting if clients.is_empty() => arena.halted(),
                    _ => {}
                }
                match clients.join_next().await {
                    Some(done) => {
                        let (target, outcome, between) = done.expect("a client that does not panic");
                        judge(target, &outcome, between, journal, tally);
                    }
                    None => sleep(Duration::from_millis(5)).await,
                }
            }
        });
    });
}

/// Sends datagrams, each after the echo of the one before; where they came from.
async fn echoes(client: IpAddr, target: SocketAddr, count: usize) -> io::Result<SocketAddr> {
    let socket = Socket::new(Domain::for_address(target), Type::DGRAM, None)?;
    socket.set_nonblocking(true)?;
    if target.is_ipv6() {
        socket.set_freebind_v6(true)?;
    }
    socket.bind(&SocketAddr::new(client, 0).into())?;
    socket.connect(&target.into())?;
    let socket = UdpSocket::from_std(socket.into())?;
    let mut heard = [0; 64];
    for number in 0..count {
        let said = [SAID.as_bytes(), &number.to_be_bytes()].concat();
        let dropped = dropped_by_backlog();
        socket.send(&said).await?;
        let length = match timeout(PATIENCE, socket.recv(&mut heard)).await {
            Ok(received) => received?,
            // Whosever they were: nobody repeats a datagram.
            Err(_) if dropped_by_backlog() > dropped => {
                return Err(io::Error::new(io::ErrorKind::Interrupted, "the kernel dropped packets"));
            }
            Err(elapsed) => return Err(elapsed.into()),
        };
        if heard.get(..length) != Some(&said) {
            return Err(io::Error::other(format!("heard {:?}", heard.get(..length))));
        }
    }
    socket.local_addr()
}

/// Compares an answer with what the scan says of every generation that may have given it.
fn judge(target: SocketAddr, outcome: &Outcome, between: Between, journal: &Journal, tally: &Tally) {
    let protocol = if matches!(outcome, Outcome::Tcp(_)) { Protocol::Tcp } else { Protocol::Udp };
    let expected: Vec<Option<&Service>> =
        between.generations.iter().map(|services| winner(services, protocol, target)).collect();
    let is_right = expected.iter().any(|service| fits(*service, target, outcome));
    let is_lost = matches!(outcome, Outcome::Udp(Err(error)) if error.kind() == io::ErrorKind::Interrupted);
    let (client, is_refusal) = match outcome {
        Outcome::Tcp(heard) => (heard.as_ref().ok().map(|heard| heard.client), heard.is_err()),
        Outcome::Udp(echoed) => (echoed.as_ref().ok().copied(), echoed.is_err()),
    };
    tally.note(|report| {
        match protocol {
            Protocol::Tcp => report.connections += 1,
            Protocol::Udp => report.datagrams += 1,
        }
        report.refused += u64::from(is_right && is_refusal);
        report.lost += u64::from(is_lost);
        report.excused += u64::from(!is_right && !is_lost && !between.undisturbed);
    });
    if is_right {
        if let Some(client) = client {
            journal.0.lock().unwrap().insert(client, (protocol, target, between));
        }
    } else if !is_lost && (between.undisturbed || is_of_another(&expected, outcome)) {
        let names: Vec<Option<(&str, &str)>> = expected
            .iter()
            .map(|service| service.map(|service| (service.name.as_str(), service.respond)))
            .collect();
        tally.wrong(format!("{protocol:?} {target}: {outcome:?} instead of one of {names:?}"));
    }
}

/// True if that is what the service answers, or nobody.
fn fits(service: Option<&Service>, target: SocketAddr, outcome: &Outcome) -> bool {
    let refused = |error: &io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    match (service, outcome) {
        (None, Outcome::Tcp(Err(error)) | Outcome::Udp(Err(error))) => refused(error),
        (Some(service), Outcome::Tcp(Ok(Heard { client, text }))) => match service.respond {
            "hello" => {
                *text
                    == format!(
                        "hello world\nservice={} protocol=tcp dialled={target} client={client}\n",
                        service.name
                    )
            }
            _ => text == SAID,
        },
        (Some(_), Outcome::Udp(Ok(_))) => true,
        _ => false,
    }
}

/// True if somebody answered who must not have, whatever ended in the meantime.
fn is_of_another(expected: &[Option<&Service>], outcome: &Outcome) -> bool {
    let Outcome::Tcp(Ok(heard)) = outcome else { return false };
    let Some((_, rest)) = heard.text.split_once("\nservice=") else { return false };
    let Some((name, _)) = rest.split_once(" protocol=") else { return false };
    !expected.iter().flatten().any(|service| service.name == name)
}
