//! The relay behind a listener of the example's own: `relay 127.0.0.1:8080 192.0.2.7:80`. Every connection's report goes to
//! standard error. Steers nothing: any listener will do.

use std::error::Error;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::sync::Arc;

use spectrum_proxy::model::{
    Destination, Family, Origin, Origins, Policy, Protocol, ResolverOptions, ServiceName, Target,
};
use spectrum_proxy::{Event, OriginWatch, Served, Workers};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: relay ADDRESS:PORT ORIGIN";
    let address: SocketAddr = arguments.next().ok_or(usage)?.parse()?;
    let origin: Origin = arguments.next().ok_or(usage)?.parse()?;

    let origins = OriginWatch::start(ResolverOptions::default())?;
    let workers = Workers::start(NonZeroUsize::MIN, origins, |_worker| {
        |event: Event<'_>| {
            if let Event::Ended(report) = event {
                eprintln!("{report:?}");
            }
        }
    })?;
    let (service, protocol) = (ServiceName::default(), Protocol::Tcp);
    let target = Target::Origins(Origins::from(vec![origin]));
    let served = Arc::new(Served { service: service.clone(), target, policy: Policy::default() });
    let destination = Destination { service, revision: 0, family: Family::of(address.ip()), protocol };
    workers.listen(&destination, vec![TcpListener::bind(address)?], served).await?;
    workers.failure().await.map_or(Ok(()), |failure| Err(failure.into()))
}
