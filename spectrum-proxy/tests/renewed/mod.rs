//! Workers that go on with what others have, as those of another process do. Asserts nothing.

use std::net::UdpSocket;
use std::sync::Arc;

use spectrum_proxy::model::{Destination, Protocol};
use spectrum_proxy::{Served, Workers};

/// Has `next` go on with the sessions of `former`, by copies of its listeners: how many went over.
pub(crate) async fn renew(
    former: &Workers,
    next: &Workers,
    destination: &Destination,
    listeners: Vec<UdpSocket>,
    served: Arc<Served>,
) -> usize {
    next.hold();
    next.listen(destination, listeners, served).await.unwrap();
    former.leave().await;
    let (mut given, mut count) = (former.give(), 0);
    while let Some((moving, sockets)) = given.recv().await {
        let said = serde_json::to_vec(&moving).unwrap();
        count += next.adopt(serde_json::from_slice(&said).unwrap(), sockets).await;
    }
    next.begin(Protocol::Udp);
    count
}
