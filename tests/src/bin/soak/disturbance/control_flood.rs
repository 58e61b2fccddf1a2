//! Clients of the control socket that come in crowds: some say nothing, some ask for everything and read a byte now and then,
//! some leave in the middle of a word.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};
use spectrum_tests::netns::Netns;
use spectrum_tests::random::Random;

use super::Siegeworks;

/// So many at once.
const CROWD: usize = 200;

/// Crowds the control socket of the instance `id` until the siege is over.
pub(crate) fn flood(netns: &Netns, id: &str, until: &Siegeworks, mut random: Random) {
    let path = PathBuf::from(format!("/run/spectrum/{}/{id}.sock", netns.inode()));
    netns.run(move || {
        let mut crowd: Vec<UnixStream> = Vec::new();
        while until.go_on() {
            while crowd.len() < CROWD
                && let Some(mut stream) = connect(&path)
            {
                let said: &[u8] = match random.below::<u8>(4) {
                    0 => b"",
                    1 => b"{\"request\":\"sta",
                    2 => b"{\"request\":\"status\"}\n",
                    _ => b"{\"request\":\"bindings\"}\n",
                };
                // One that is not heard is as good.
                let _ = stream.write_all(said);
                if random.below::<u8>(4) > 0 {
                    crowd.push(stream);
                }
            }
            crowd.retain_mut(|stream| match stream.read(&mut [0]) {
                Ok(read) => read > 0 && random.below::<u8>(30) > 0,
                Err(error) => error.kind() == std::io::ErrorKind::WouldBlock && random.below::<u8>(60) > 0,
            });
            until.pass(Duration::from_millis(100));
            // It leaves room now and then, as crowds do.
            if random.below::<u8>(40) == 0 {
                crowd.clear();
                until.pass_some(Duration::from_secs(2), &mut random);
            }
        }
    });
}

/// Without waiting: a full queue of connections would hold the crowd and not the instance.
fn connect(path: &std::path::Path) -> Option<UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).ok()?;
    socket.set_nonblocking(true).ok()?;
    socket.connect(&SockAddr::unix(path).ok()?).ok()?;
    Some(socket.into())
}
