//! A tokio server on any port of any address of a prefix, by one listening socket: it says which address was dialled, and then
//! echoes. Needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON; serves until Ctrl-C.

use std::{error::Error, fs::File, io, num::NonZeroUsize};

use spectrum_steering::dispatcher::Dispatcher;
use spectrum_steering::host::{ListenerAddresses, ListenerGroup, ListenerOptions, LocalRoutes, Transparency};
use spectrum_steering::model::{Binding, PortRange, Prefix, Protocol};
use spectrum_steering::plan::{Bound, Plan, table::Table};
use tokio::io::{AsyncWriteExt as _, copy};
use tokio::net::{TcpListener, TcpStream};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    serve(std::env::args().nth(1).ok_or("usage: echo PREFIX")?.parse()?).await
}

pub(crate) async fn serve(prefix: Prefix) -> Result<(), Box<dyn Error>> {
    let (protocol, family) = (Protocol::Tcp, prefix.family());
    let bindings = vec![Binding { protocol, prefix, ports: PortRange::ALL }];
    let plan = Plan::of(&[Bound { bindings, ..Bound::default() }]).map_err(|errors| format!("{errors:?}"))?;
    let transparency = Transparency::Opaque;
    let options = ListenerOptions { family, protocol, sockets: NonZeroUsize::MIN, transparency };
    let mut group = ListenerGroup::bind(&options, &mut ListenerAddresses::default(), 0)?;
    let socket = group.take_sockets().pop().ok_or("no socket")?;
    let mut dispatcher = Dispatcher::load(false, plan.ids())?;
    for id in plan.destinations.keys() {
        dispatcher.register(*id, &socket)?;
    }
    dispatcher.publish(Table::compile(&plan.bindings)?.nodes())?;
    let mut routes = LocalRoutes::open()?;
    routes.add(&plan.routes).await?;
    // Of the calling thread, which need not be the first of its process.
    dispatcher.attach(File::open("/proc/thread-self/ns/net")?)?;
    let listener = TcpListener::from_std(socket.into())?;
    loop {
        tokio::select! {
            accepted = listener.accept() => drop(tokio::spawn(echo(accepted?.0))),
            _ = tokio::signal::ctrl_c() => break,
        }
    }
    routes.undo().await.pop().map_or(Ok(()), |error| Err(error.into()))
}

async fn echo(mut stream: TcpStream) -> io::Result<u64> {
    stream.write_all(format!("{}\n", stream.local_addr()?).as_bytes()).await?;
    let (mut from_client, mut to_client) = stream.split();
    copy(&mut from_client, &mut to_client).await
}
