//! Dialling, by the thousand. Judges answers only where asked to.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::answer;
use crate::netns::Netns;
use crate::random::Random;

/// The time that a connection may take before it counts as unanswered.
const PATIENCE: Duration = Duration::from_secs(30);

/// Enough to keep two processors busy, few enough for any limit of open files.
const AT_ONCE: usize = 200;

/// The answer that a client heard.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Heard {
    /// The client's own address.
    pub client: SocketAddr,
    /// All that came until the end of the stream.
    pub text: String,
}

/// Connects from inside `netns`, says nothing and listens to the end.
pub fn dial(netns: &Netns, target: SocketAddr) -> io::Result<Heard> {
    netns.run(|| runtime().block_on(hear(target, None)))
}

/// Connects from inside `netns` and leaves the talking to the caller; reading and writing give up after a while.
pub fn call(netns: &Netns, target: SocketAddr) -> io::Result<std::net::TcpStream> {
    let stream = netns.run(|| std::net::TcpStream::connect_timeout(&target, PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Connects from inside `netns` with `client` as the source address.
pub fn dial_from(netns: &Netns, client: IpAddr, target: SocketAddr) -> io::Result<Heard> {
    netns.run(|| runtime().block_on(hear(target, Some(client))))
}

/// Dials all targets, many at a time.
pub fn dial_all(netns: &Netns, targets: &[SocketAddr]) -> Vec<(SocketAddr, io::Result<Heard>)> {
    netns.run(|| {
        runtime().block_on(async {
            let permits = Arc::new(Semaphore::new(AT_ONCE));
            let mut dials = JoinSet::new();
            for target in targets.iter().copied() {
                let permit = Arc::clone(&permits).acquire_owned().await.expect("an open semaphore");
                dials.spawn(async move {
                    let heard = hear(target, None).await;
                    drop(permit);
                    (target, heard)
                });
            }
            dials.join_all().await
        })
    })
}

/// Connects to all targets, reads from none of them before the last one is connected, then listens to all.
pub fn dial_together(netns: &Netns, targets: &[SocketAddr]) -> Vec<(SocketAddr, io::Result<Heard>)> {
    netns.run(|| {
        runtime().block_on(async {
            let mut dials = JoinSet::new();
            for target in targets.iter().copied() {
                dials.spawn(async move { (target, connect(target, None).await) });
            }
            let mut listening = JoinSet::new();
            for (target, stream) in dials.join_all().await {
                listening.spawn(async move {
                    match stream {
                        Ok(stream) => (target, listen(stream).await),
                        Err(error) => (target, Err(error)),
                    }
                });
            }
            listening.join_all().await
        })
    })
}

/// Dials `targets` at random, `clients` at a time, until `is_over`. Each client says `said` and then listens to the end.
pub fn dial_until(
    netns: &Netns,
    targets: &[SocketAddr],
    clients: usize,
    said: &'static str,
    mut random: Random,
    is_over: impl Fn() -> bool + Sync,
) -> Vec<(SocketAddr, io::Result<Heard>)> {
    netns.run(|| {
        runtime().block_on(async {
            let mut answers = Vec::new();
            let mut dials = JoinSet::new();
            loop {
                while dials.len() < clients && !is_over() {
                    let target = targets[random.below::<usize>(targets.len() as u64)];
                    dials.spawn(async move { (target, exchange(target, None, said).await) });
                }
                match dials.join_next().await {
                    Some(answer) => answers.push(answer.expect("a dial that does not panic")),
                    None => return answers,
                }
            }
        })
    })
}

/// Dials all targets and panics unless each gets the built-in responder's answer with its own addresses.
pub fn assert_answered(netns: &Netns, targets: &[SocketAddr]) {
    assert_answers(dial_all(netns, targets), targets.len());
}

/// Panics unless there are `count` answers and each is the built-in responder's, with the right addresses.
pub fn assert_answers(answers: Vec<(SocketAddr, io::Result<Heard>)>, count: usize) {
    assert_eq!(answers.len(), count);
    let wrong: Vec<String> = answers
        .into_iter()
        .filter_map(|(target, heard)| match heard {
            Ok(heard) if heard.text == answer::expected(target, heard.client) => None,
            Ok(heard) => Some(format!("{target} answered {heard:?}")),
            Err(error) => Some(format!("{target}: {error}")),
        })
        .collect();
    assert!(wrong.is_empty(), "{} of {count} are wrong:\n{}", wrong.len(), first_of(&wrong));
}

/// Dials all targets and panics unless each is refused at once.
pub fn assert_refused(netns: &Netns, targets: &[SocketAddr]) {
    let wrong: Vec<String> = dial_all(netns, targets)
        .into_iter()
        .filter_map(|(target, heard)| match heard {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => None,
            Ok(heard) => Some(format!("{target} answered {heard:?}")),
            Err(error) => Some(format!("{target}: {error}")),
        })
        .collect();
    assert!(wrong.is_empty(), "{} of {} were not refused:\n{}", wrong.len(), targets.len(), first_of(&wrong));
}

fn first_of(wrong: &[String]) -> String {
    wrong.iter().take(20).map(String::as_str).collect::<Vec<_>>().join("\n")
}

fn runtime() -> tokio::runtime::Runtime {
    // One thread, the one in the namespace: every socket is made by it.
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

async fn hear(target: SocketAddr, client: Option<IpAddr>) -> io::Result<Heard> {
    listen(connect(target, client).await?).await
}

/// Connects, from `client` if one is given, says `said` and then listens to the end; for a runtime of the caller's.
///
/// # Errors
/// Whatever the network says, and that it takes too long.
pub async fn exchange(target: SocketAddr, client: Option<IpAddr>, said: &str) -> io::Result<Heard> {
    let mut stream = connect(target, client).await?;
    stream.write_all(said.as_bytes()).await?;
    stream.shutdown().await?;
    listen(stream).await
}

async fn connect(target: SocketAddr, client: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    if let Some(client) = client {
        // AnyIP makes an IPv4 prefix bindable, but not an IPv6 one: there only addresses of an interface are.
        if target.is_ipv6() {
            socket.set_freebind_v6(true)?;
        }
        socket.bind(&SocketAddr::new(client, 0).into())?;
    }
    timeout(PATIENCE, TcpSocket::from_std_stream(socket.into()).connect(target)).await?
}

async fn listen(mut stream: TcpStream) -> io::Result<Heard> {
    let client = stream.local_addr()?;
    let mut text = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut text)).await??;
    Ok(Heard { client, text })
}
