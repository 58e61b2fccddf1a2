//! What the built-in responder is expected to say. Does not open connections.

use std::net::SocketAddr;

/// The whole answer of the built-in responder of service `default` to a TCP connection.
pub fn expected(dialled: SocketAddr, client: SocketAddr) -> String {
    format!("hello world\nservice=default protocol=tcp dialled={dialled} client={client}\n")
}
