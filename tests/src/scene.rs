//! A server between its clients and its origins, each a hop away: where origins are dialled from the clients' addresses.
//! Starts no program.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};

use socket2::{Domain, Socket, Type};

use crate::case::Case;
use crate::deadline::PATIENCE;
use crate::dial::dial;
use crate::netns::Netns;
use crate::origin::Origin;
use crate::veth::{client_of, origin_address, origin_of};

/// A client and an origin two hops apart, with the server between them, which routes for both.
#[derive(Debug)]
pub struct Scene {
    /// Dials everything through the server.
    pub client: Netns,
    /// Has the servers, and answers through the server.
    pub origins: Netns,
}

impl Scene {
    /// The scene around the server of `case`.
    pub fn of(case: &Case) -> Self {
        let scene = Self { client: client_of(&case.server), origins: origin_of(&case.server) };
        case.server.sysctl("net/ipv4/ip_forward", "1");
        case.server.sysctl("net/ipv6/conf/all/forwarding", "1");
        scene
    }

    /// An origin there that says whom it sees.
    pub fn observer(&self, case: &Case) -> Origin {
        Origin::serve(&self.origins, SocketAddr::new(origin_address(case.family), 0), say_who)
    }
}

/// Answers with the address of whoever dialled.
pub fn say_who(mut stream: TcpStream) -> io::Result<()> {
    let client = stream.peer_addr()?;
    write!(stream, "{client}")
}

/// A service of that name whose one origin is dialled from the client's address.
pub fn transparent_service(name: &str, prefix: &str, origin: SocketAddr) -> String {
    format!(
        "[[service]]\nname = \"{name}\"\norigins = [\"{origin}\"]\ntransparent = true\nbindings = [{{ prefix = \"{prefix}\" \
         }}]\n"
    )
}

/// Connects from inside `netns` with `from` as the source, and leaves the talking to the caller.
pub fn call_from(netns: &Netns, from: SocketAddr, target: SocketAddr) -> TcpStream {
    let stream: TcpStream = netns.run(|| {
        let socket = Socket::new(Domain::for_address(target), Type::STREAM, None).expect("make a socket");
        socket.set_reuse_address(true).expect("share the port");
        socket.bind(&from.into()).expect("bind it");
        socket.connect_timeout(&target.into(), PATIENCE).expect("connect");
        socket.into()
    });
    stream.set_read_timeout(Some(PATIENCE)).expect("limit reading");
    stream
}

/// Dials from `client`, and panics unless the origin sees it.
pub fn assert_sees_the_client(client: &Netns, target: SocketAddr) {
    let heard = dial(client, target).expect("an answer");
    assert_eq!(heard.text, heard.client.to_string());
}
