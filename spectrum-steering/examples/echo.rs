//! A tokio server on any port of any address of a prefix, by one listening socket: it says which address was dialled, and then
//! echoes. Needs CAP_NET_ADMIN, for `sk_lookup` also CAP_BPF and CAP_PERFMON; serves until Ctrl-C.

use std::{error::Error, io};

use spectrum_steering::{Binding, Bound, Plan, PortRange, Prefix, Protocol, Steering, SteeringOptions};
use tokio::io::{AsyncWriteExt as _, copy};
use tokio::net::{TcpListener, TcpStream};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let prefix = std::env::args().nth(1).ok_or("usage: echo PREFIX")?.parse()?;
    serve(prefix, &SteeringOptions::default()).await
}

pub(crate) async fn serve(prefix: Prefix, options: &SteeringOptions) -> Result<(), Box<dyn Error>> {
    let bindings = vec![Binding { protocol: Protocol::Tcp, prefix, ports: PortRange::ALL }];
    let plan = Plan::of(&[Bound { bindings, ..Bound::default() }]).map_err(|errors| format!("{errors:?}"))?;
    let mut steering = Steering::raise(&plan, options).await?;
    let (_, socket) = steering.take_sockets().pop().ok_or("no binding")?;
    let listener = TcpListener::from_std(socket.into())?;
    loop {
        tokio::select! {
            accepted = listener.accept() => drop(tokio::spawn(echo(accepted?.0))),
            _ = tokio::signal::ctrl_c() => break,
        }
    }
    steering.lower().await.pop().map_or(Ok(()), |error| Err(error.into()))
}

async fn echo(mut stream: TcpStream) -> io::Result<u64> {
    stream.write_all(format!("{}\n", stream.local_addr()?).as_bytes()).await?;
    let (mut from_client, mut to_client) = stream.split();
    copy(&mut from_client, &mut to_client).await
}
