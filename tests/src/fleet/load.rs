//! The clients of a fleet: connections that stay open and say something now and then, and new ones at a steady rate. Counts what became
//! of them; who is to blame is told by those who know what happened meanwhile.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout};

use crate::deadline::{PATIENCE, eventually};
use crate::netns::Netns;
use crate::random::Random;

/// The time that a new connection may take before it counts as lost.
const LOST_AFTER: Duration = Duration::from_secs(50);

/// So many new ones are under way at once: a machine that cannot keep up gets fewer a second, not more and more at once.
const AT_ONCE: usize = 100;

/// The pause between what a long connection says.
const PAUSE: Duration = Duration::from_millis(250);

/// What is said, and comes back.
const WORD: &[u8; 8] = b"anything";

/// How much of it.
#[derive(Clone, Copy, Debug)]
pub struct LoadSize {
    /// Connections that stay open.
    pub long: usize,
    /// New ones in a second.
    pub rate: u32,
}

/// A new connection: who answered, or why nobody.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// When it was begun.
    pub begun: Instant,
    /// When that was known.
    pub ended: Instant,
    /// The server's name, or the error.
    pub outcome: Result<u8, String>,
}

/// A long connection.
#[derive(Clone, Debug)]
pub struct LongConnection {
    /// The name of its server.
    pub server: u8,
    /// When and by what it broke, if it did.
    pub broken: Option<(Instant, String)>,
}

/// What became of all connections.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// The new ones, in the order in which they ended.
    pub attempts: Vec<Attempt>,
    /// The long ones.
    pub long: Vec<LongConnection>,
}

impl Tally {
    /// The new ones that were lost.
    pub fn lost(&self) -> impl Iterator<Item = &Attempt> {
        self.attempts.iter().filter(|attempt| attempt.outcome.is_err())
    }

    /// The new ones that were answered as late as by a second attempt of their kernel's.
    pub fn slow(&self) -> usize {
        let answered = self.attempts.iter().filter(|attempt| attempt.outcome.is_ok());
        answered.filter(|attempt| attempt.ended - attempt.begun >= Duration::from_secs(1)).count()
    }

    /// The long ones of `server`, or of all others, and how many of them broke.
    pub fn long_of(&self, server: u8, others: bool) -> (usize, usize) {
        let those = self.long.iter().filter(|long| (long.server == server) != others);
        let broken = those.clone().filter(|long| long.broken.is_some()).count();
        (those.count(), broken)
    }
}

#[derive(Debug, Default)]
struct Shared {
    is_over: AtomicBool,
    established: AtomicUsize,
    ended: AtomicUsize,
    tally: Mutex<Tally>,
}

/// Load that goes on until it is told to end.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

impl Load {
    /// Begins in `netns`, and returns when every long connection is served.
    pub fn start(netns: &Netns, network: SocketAddr, length: u8, size: LoadSize) -> Self {
        let shared = Arc::<Shared>::default();
        let mine = Arc::clone(&shared);
        let thread = netns.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(run(&mine, network, length, size));
        });
        let load = Self { shared, thread };
        eventually("the long connections", PATIENCE, || {
            (load.shared.established.load(Ordering::Relaxed) == size.long).then_some(())
        });
        load
    }

    /// Waits until so many new connections more have come to their end.
    pub fn await_more(&self, count: usize) {
        let until = self.shared.ended.load(Ordering::Relaxed) + count;
        eventually("new connections", PATIENCE, || {
            (self.shared.ended.load(Ordering::Relaxed) >= until).then_some(())
        });
    }

    /// Ends it: what became of everything.
    pub fn end(self) -> Tally {
        self.shared.is_over.store(true, Ordering::Relaxed);
        self.thread.join().expect("the load's end");
        std::mem::take(&mut *self.shared.tally.lock().unwrap())
    }
}

async fn run(shared: &Arc<Shared>, network: SocketAddr, length: u8, size: LoadSize) {
    let mut random = Random::seeded();
    let mut target = || SocketAddr::new(random.address(network.ip(), length), network.port());
    let mut running = JoinSet::new();
    for _ in 0..size.long {
        running.spawn(stay(Arc::clone(shared), target()));
    }
    let mut next = tokio::time::Instant::now();
    while !shared.is_over.load(Ordering::Relaxed) {
        if running.len() < size.long + AT_ONCE {
            running.spawn(come_and_go(Arc::clone(shared), target()));
        }
        next = (next + Duration::from_secs(1) / size.rate).max(tokio::time::Instant::now());
        sleep_until(next).await;
        while running.try_join_next().is_some() {}
    }
    running.join_all().await;
}

async fn come_and_go(shared: Arc<Shared>, target: SocketAddr) {
    let begun = Instant::now();
    let exchange = timeout(LOST_AFTER, async {
        let (mut stream, server) = connect(target).await?;
        say(&mut stream).await?;
        Ok::<u8, io::Error>(server)
    });
    let outcome = match exchange.await {
        Ok(Ok(server)) => Ok(server),
        Ok(Err(error)) => Err(format!("{target}: {error}")),
        Err(_late) => Err(format!("{target}: no answer within {LOST_AFTER:?}")),
    };
    let attempt = Attempt { begun, ended: Instant::now(), outcome };
    shared.tally.lock().unwrap().attempts.push(attempt);
    shared.ended.fetch_add(1, Ordering::Relaxed);
}

async fn stay(shared: Arc<Shared>, target: SocketAddr) {
    let (mut stream, server) = connect(target).await.unwrap_or_else(|error| panic!("{target}: {error}"));
    shared.established.fetch_add(1, Ordering::Relaxed);
    let mut broken = None;
    while broken.is_none() && !shared.is_over.load(Ordering::Relaxed) {
        sleep(PAUSE).await;
        broken = match timeout(LOST_AFTER, say(&mut stream)).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some((Instant::now(), error.to_string())),
            // A machine that does much else is no fault, and a broken connection is told at once.
            Err(_late) => Some((Instant::now(), format!("no answer within {LOST_AFTER:?}"))),
        };
    }
    shared.tally.lock().unwrap().long.push(LongConnection { server, broken });
}

async fn connect(target: SocketAddr) -> io::Result<(TcpStream, u8)> {
    let mut stream = TcpStream::connect(target).await?;
    stream.set_nodelay(true)?;
    let server = stream.read_u8().await?;
    Ok((stream, server))
}

async fn say(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(WORD).await?;
    let mut heard = [0; WORD.len()];
    stream.read_exact(&mut heard).await?;
    if heard == *WORD { Ok(()) } else { Err(io::Error::other(format!("it came back as {heard:?}"))) }
}
