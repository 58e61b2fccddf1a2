//! Servers that the tests put behind the program or beside it, and the stream they exchange. Knows nothing of steering.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;

use socket2::{Domain, Protocol, Socket, Type};

use crate::netns::Netns;
use crate::random::Random;

/// A server in a namespace. It answers until the namespace and the test are gone.
#[derive(Debug)]
pub struct Origin {
    address: SocketAddr,
}

impl Origin {
    /// Serves every connection to `address` (port 0: any) on a thread of its own by `serve`.
    pub fn serve(
        netns: &Netns,
        address: SocketAddr,
        serve: impl Fn(TcpStream) -> io::Result<()> + Clone + Send + 'static,
    ) -> Self {
        let listener =
            netns.run(|| listen(address)).unwrap_or_else(|error| panic!("listen on {address}: {error}"));
        let address = listener.local_addr().expect("the listener's address");
        netns.spawn(move || {
            for stream in listener.incoming() {
                let serve = serve.clone();
                // The client sees what went wrong; the origin need not tell.
                thread::spawn(move || stream.and_then(serve));
            }
        });
        Self { address }
    }

    /// Says `word` and closes.
    pub fn saying(netns: &Netns, address: SocketAddr, word: &'static str) -> Self {
        Self::serve(netns, address, move |mut stream| stream.write_all(word.as_bytes()))
    }

    /// Sends everything back, and the end of the stream too.
    pub fn echo(netns: &Netns, address: IpAddr) -> Self {
        Self::serve(netns, SocketAddr::new(address, 0), |mut stream| {
            io::copy(&mut stream.try_clone()?, &mut stream)?;
            stream.shutdown(Shutdown::Write)
        })
    }

    /// The address at which it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Writes `length` bytes of the sequence of `seed`, then ends the stream in this direction.
pub fn send_sequence(mut stream: &TcpStream, seed: u64, length: u64) -> io::Result<()> {
    let mut random = Random::from_seed(seed);
    let mut buffer = vec![0; 64 << 10];
    let mut left = length;
    while left > 0 {
        let part = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        random.fill(&mut buffer[..part]);
        stream.write_all(&buffer[..part])?;
        left -= part as u64;
    }
    stream.shutdown(Shutdown::Write)
}

/// Reads to the end of the stream; fails unless it carried exactly the first `length` bytes of the sequence of `seed`.
pub fn receive_sequence(mut stream: &TcpStream, seed: u64, length: u64) -> io::Result<()> {
    let mut random = Random::from_seed(seed);
    let mut expected = vec![0; 64 << 10];
    let mut buffer = vec![0; 64 << 10];
    let mut received: u64 = 0;
    loop {
        // Whole blocks, since the sequence is made of whole words.
        let filled = read_block(&mut stream, &mut buffer)?;
        random.fill(&mut expected);
        received += filled as u64;
        if buffer[..filled] != expected[..filled] {
            return Err(io::Error::other(format!("different bytes just before offset {received}")));
        }
        if filled < buffer.len() {
            break;
        }
    }
    if received == length {
        Ok(())
    } else {
        Err(io::Error::other(format!("{received} bytes arrived instead of {length}")))
    }
}

fn read_block(stream: &mut &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match stream.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(length) => filled += length,
            // signal(7): a socket with a timeout is interrupted when its process goes on after a pause, even without a handler.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// A listener on an address that need not be the host's yet.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv4() {
        socket.set_freebind_v4(true)?;
    } else {
        socket.set_only_v6(true)?;
        socket.set_freebind_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    Ok(socket.into())
}
