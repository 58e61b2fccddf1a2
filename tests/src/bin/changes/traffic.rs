//! Clients: a stream of new connections, long ones, and sessions of UDP. Each judges what it hears, and says what it lost.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

use spectrum_tests::datagram::{self, dropped_by_backlog};
use spectrum_tests::dial::call;
use spectrum_tests::netns::Netns;

use crate::losses::{Kind, Losses};
use crate::services::{ANSWER, RELAY, SESSIONS};

/// The threads that dial, so that one that waits holds nobody up.
const DIALLERS: u32 = 16;

/// The long connections, and the pause between their messages.
const TRANSFERS: u32 = 50;
const BETWEEN_MESSAGES: Duration = Duration::from_millis(100);

/// The threads of sessions, the sessions of each, and the pause between their rounds.
const SESSION_THREADS: u32 = 5;
const SESSIONS_OF_EACH: usize = 10;
const BETWEEN_ROUNDS: Duration = Duration::from_millis(50);

/// Within so long an answer has come, or never will.
const PATIENCE: Duration = Duration::from_secs(10);

/// The clients of an instance.
#[derive(Debug)]
pub(crate) struct Traffic<'run> {
    client: &'run Netns,
    address: IpAddr,
    losses: &'run Losses,
    /// The pause of each thread between two connections.
    between_dials: Duration,
    is_over: AtomicBool,
}

impl<'run> Traffic<'run> {
    /// Of so many connections a second.
    pub(crate) fn new(client: &'run Netns, address: IpAddr, rate: u64, losses: &'run Losses) -> Self {
        let between_dials = Duration::from_secs(DIALLERS.into()) / u32::try_from(rate).unwrap_or(u32::MAX);
        Self { client, address, losses, between_dials, is_over: AtomicBool::new(false) }
    }

    /// Begins.
    pub(crate) fn flow<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) {
        for number in 0..DIALLERS {
            scope.spawn(move || self.dial(self.between_dials * number / DIALLERS));
        }
        for _ in 0..TRANSFERS {
            scope.spawn(move || self.transfer());
        }
        for _ in 0..SESSION_THREADS {
            scope.spawn(move || self.speak());
        }
    }

    /// Has all of them finish what they have begun.
    pub(crate) fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    fn goes_on(&self) -> bool {
        !self.is_over.load(Ordering::Relaxed)
    }

    fn dial(&self, first: Duration) {
        let target = SocketAddr::new(self.address, ANSWER);
        let mut next = Instant::now() + first;
        while self.goes_on() {
            thread::sleep(next.saturating_duration_since(Instant::now()));
            next = (next + self.between_dials).max(Instant::now());
            let begun = Instant::now();
            match self.ask(target) {
                Ok(()) => self.losses.served(Kind::Connection, begun),
                Err(error) => self.losses.failed(Kind::Connection, begun, &error),
            }
        }
    }

    fn ask(&self, target: SocketAddr) -> io::Result<()> {
        let mut stream = call(self.client, target)?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        if text.starts_with("hello world") {
            Ok(())
        } else {
            Err(io::Error::other(format!("answered {text:?}")))
        }
    }

    fn transfer(&self) {
        while self.goes_on() {
            // What is lost of it may be lost because its connection is.
            let begun = Instant::now();
            if let Err(error) = self.exchange() {
                self.losses.failed(Kind::Message, begun, &error);
            }
        }
    }

    fn exchange(&self) -> io::Result<()> {
        let mut stream: TcpStream = call(self.client, SocketAddr::new(self.address, RELAY))?;
        stream.set_nodelay(true)?;
        let (mut said, mut heard) = ([0_u8; 4096], [0_u8; 4096]);
        let mut number = 0_u64;
        while self.goes_on() {
            let begun = Instant::now();
            number += 1;
            said[..8].copy_from_slice(&number.to_be_bytes());
            stream.write_all(&said)?;
            stream.read_exact(&mut heard).map_err(|error| match error.kind() {
                ErrorKind::UnexpectedEof => {
                    io::Error::new(ErrorKind::ConnectionReset, "closed in the middle")
                }
                _ => error,
            })?;
            if heard != said {
                return Err(io::Error::other(format!("message {number} came back as another")));
            }
            self.losses.served(Kind::Message, begun);
            thread::sleep(BETWEEN_MESSAGES);
        }
        Ok(())
    }

    /// Asks an origin again and again who asks: one that has become another session says another port.
    fn speak(&self) {
        let target = SocketAddr::new(self.address, SESSIONS);
        let mut sessions: Vec<_> = (0..SESSIONS_OF_EACH)
            .map(|_| (datagram::client(self.client, target), None::<(Vec<u8>, Instant)>))
            .collect();
        for (socket, _) in &sessions {
            socket.set_read_timeout(Some(PATIENCE)).expect("limit reading");
        }
        while self.goes_on() {
            for (socket, known) in &mut sessions {
                let (begun, dropped) = (Instant::now(), dropped_by_backlog());
                let answer = socket.send(b"who?").and_then(|_| datagram::hear(socket));
                match answer {
                    Ok(port) => {
                        match known {
                            Some((before, since)) if *before != port => {
                                let error = io::Error::new(
                                    ErrorKind::AddrNotAvailable,
                                    format!(
                                        "from {} to {}",
                                        String::from_utf8_lossy(before),
                                        String::from_utf8_lossy(&port)
                                    ),
                                );
                                self.losses.failed(Kind::Datagram, *since, &error);
                            }
                            _ => self.losses.served(Kind::Datagram, begun),
                        }
                        *known = Some((port, begun));
                    }
                    // The kernel drops packets when a processor has too many before it, whosever they are.
                    Err(_) if dropped_by_backlog() > dropped => {}
                    Err(error) => self.losses.failed(Kind::Datagram, begun, &error),
                }
            }
            thread::sleep(BETWEEN_ROUNDS);
        }
    }
}
