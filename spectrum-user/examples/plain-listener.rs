//! The same workers, responder and connection log behind an ordinary listener: what `cargo xtask bench connect` compares
//! with. Steers nothing and undoes nothing.

use std::error::Error;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;

use socket2::{Domain, Socket, Type};
use spectrum_proxy::{OriginWatch, Served, Workers};
use spectrum_user::model::{
    Destination, Family, LogFormat, Policy, Protocol, ResolverOptions, Responder, ServiceName, Target,
};
use spectrum_user::observe::{self, Book, Counters, Omissions, Output, Recorder};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let address: SocketAddr = std::env::args().nth(1).ok_or("usage: plain-listener ADDRESS:PORT")?.parse()?;
    let count = thread::available_parallelism()?;
    let output = Output::start(LogFormat::default(), io::stdout(), io::stderr())?;
    let book = Book::create()?;
    let counters = Counters::of(&book);
    let origins = OriginWatch::start(ResolverOptions::default())?;
    let recorder = Recorder::new(output, Omissions::of(&book));
    let workers = Workers::start(count, origins, |_| observe::observer(counters.worker(), &recorder))?;

    let sockets = (0..count.get()).map(|_| listen(address)).collect::<io::Result<Vec<_>>>()?;
    let service = ServiceName::default();
    let destination = Destination {
        service: service.clone(),
        revision: 0,
        family: Family::of(address.ip()),
        protocol: Protocol::Tcp,
    };
    let served =
        Arc::new(Served { service, target: Target::Respond(Responder::Hello), policy: Policy::default() });
    workers.listen(&destination, sockets, served).await?;
    #[expect(clippy::print_stdout, reason = "the benchmark waits for this line")]
    {
        println!("ready listening={address}");
    }
    std::future::pending::<()>().await;
    Ok(())
}

/// As spectrum-user makes its listeners, but for the address.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
        // A local route alone does not let an IPv6 socket bind.
        socket.set_freebind_v6(true)?;
    }
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(i32::MAX)?;
    Ok(socket.into())
}
