//! Clients that are there all the time: connections that stay open and talk, sessions of UDP, and new connections one after
//! the other. Tells what was lost; whether that is much is for others.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};

use xtask::demo::dial::dial;

/// The connections of each address that stay open.
const HELD: usize = 20;

/// A datagram may be lost on any way; so many in a row are not.
const TRIES: usize = 5;

const PATIENCE: Duration = Duration::from_secs(20);

const PAUSE: Duration = Duration::from_millis(5);

/// What clients dial.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dialled {
    /// Addresses that answer hello, where each connection is a new one.
    pub(super) hello: [SocketAddr; 2],
    /// Addresses that say again what they are told, over TCP and UDP.
    pub(super) echo: [SocketAddr; 2],
}

/// Clients at work.
#[derive(Debug)]
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Result<usize>>>,
}

impl Load {
    /// Opens all that stays open, and has the rest begin.
    pub(super) fn begin(dialled: Dialled) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut clients: Vec<JoinHandle<Result<usize>>> = Vec::new();
        for address in dialled.echo {
            let held = (0..HELD).map(|_| open(address)).collect::<Result<Vec<_>>>()?;
            let session = session(address)?;
            for turn in [talk(held, &stop), ask(session, &stop)] {
                clients.push(turn);
            }
        }
        for address in dialled.hello {
            let stop = Arc::clone(&stop);
            clients.push(thread::spawn(move || {
                let mut dials = 0;
                while !stop.load(Ordering::Relaxed) {
                    dial(address).with_context(|| format!("the {}th new connection", dials + 1))?;
                    dials += 1;
                    thread::sleep(PAUSE);
                }
                Ok(dials)
            }));
        }
        Ok(Self { stop, clients })
    }

    /// Ends them, and says how much went well; fails if anything was lost.
    pub(super) fn end(self) -> Result<String> {
        self.stop.store(true, Ordering::Relaxed);
        let mut counts = Vec::new();
        for client in self.clients {
            counts.push(client.join().map_err(|_panic| anyhow!("a client panicked"))??);
        }
        let [talks4, asks4, talks6, asks6, dials4, dials6] = counts[..] else {
            return Err(anyhow!("clients"));
        };
        ensure!(counts.iter().all(|count| *count > 0), "a client did nothing: {counts:?}");
        Ok(format!(
            "{} connections stayed open and talked {} times, sessions of UDP were answered {} times, {} new connections",
            2 * HELD,
            talks4 + talks6,
            asks4 + asks6,
            dials4 + dials6
        ))
    }
}

fn open(address: SocketAddr) -> Result<TcpStream> {
    let mut stream =
        TcpStream::connect_timeout(&address, PATIENCE).with_context(|| format!("dial {address}"))?;
    stream.set_read_timeout(Some(PATIENCE)).context("limit the time of a read")?;
    say(&mut stream, 0)?;
    Ok(stream)
}

fn say(stream: &mut TcpStream, word: u8) -> Result<()> {
    let mut heard = [0];
    stream.write_all(&[word]).and_then(|()| stream.read_exact(&mut heard)).context("a connection broke")?;
    ensure!(heard == [word], "a connection said {heard:?} for {word}");
    Ok(())
}

fn talk(mut held: Vec<TcpStream>, stop: &Arc<AtomicBool>) -> JoinHandle<Result<usize>> {
    let stop = Arc::clone(stop);
    thread::spawn(move || {
        let mut talks = 0;
        // Each once more at the end, whatever happened since it was its turn.
        loop {
            let is_last = stop.load(Ordering::Relaxed);
            for stream in &mut held {
                say(stream, u8::try_from(talks % 256)?)?;
                talks += 1;
            }
            if is_last {
                return Ok(talks);
            }
            thread::sleep(PAUSE);
        }
    })
}

fn session(address: SocketAddr) -> Result<UdpSocket> {
    let any: SocketAddr =
        if address.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind(any).context("open a socket")?;
    socket.connect(address).with_context(|| format!("dial {address} by UDP"))?;
    socket.set_read_timeout(Some(Duration::from_secs(2))).context("limit the time of a read")?;
    Ok(socket)
}

fn ask(socket: UdpSocket, stop: &Arc<AtomicBool>) -> JoinHandle<Result<usize>> {
    let stop = Arc::clone(stop);
    thread::spawn(move || {
        let mut answered = 0_usize;
        while !stop.load(Ordering::Relaxed) {
            let question = answered.to_be_bytes();
            let is_answered = (0..TRIES).any(|_| {
                let mut heard = [0; 8];
                // What comes late is the answer to a question before.
                socket.send(&question).is_ok()
                    && socket.recv(&mut heard).is_ok_and(|length| heard[..length] == question)
            });
            ensure!(is_answered, "a session of UDP was not answered after {answered} times");
            answered += 1;
            thread::sleep(4 * PAUSE);
        }
        Ok(answered)
    })
}

/// A server of this process that says again what it is told, until the process ends.
pub(super) fn echo_server() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("open a server")?;
    let address = listener.local_addr().context("name a server")?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut reader = stream.try_clone()?;
                let mut writer = stream;
                std::io::copy(&mut reader, &mut writer)
            });
        }
    });
    Ok(address)
}
