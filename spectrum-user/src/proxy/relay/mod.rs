//! Both directions of a proxied connection, and how it ends. How bytes move in one direction is `copy`'s; another
//! strategy needs a `poll` with the same meaning and a `source`.

mod copy;

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::task::Poll;

use tokio::io::Interest;
use tokio::net::TcpStream;

use super::report::{End, Side};
pub(super) use copy::Buffers;
use copy::{Broken, Copy, Counts};

/// Passes bytes, FINs and, by telling the end, resets between the two until neither has more to say.
///
/// `from_client` and `to_client` count as it goes, so they hold whatever becomes of the future.
pub(super) async fn relay(
    downstream: &mut TcpStream,
    upstream: &mut TcpStream,
    from_client: &Cell<u64>,
    to_client: &Cell<u64>,
    buffers: &Buffers,
) -> End {
    let (client_read, client_write) = downstream.split();
    let (origin_read, origin_write) = upstream.split();
    let counts = Counts { read: Some(from_client), written: None };
    let mut up = Copy::new(client_read, origin_write, counts, buffers);
    let counts = Counts { read: None, written: Some(to_client) };
    let mut down = Copy::new(origin_read, client_write, counts, buffers);

    let (source, first) = poll_fn(|cx| match up.poll(cx) {
        Poll::Ready(first) => Poll::Ready((Side::Downstream, first)),
        Poll::Pending => down.poll(cx).map(|first| (Side::Upstream, first)),
    })
    .await;
    let (done, rest, sink) = match source {
        Side::Downstream => (up, &mut down, Side::Upstream),
        Side::Upstream => (down, &mut up, Side::Downstream),
    };
    match first {
        // The source is half-closed. Nobody reads from it any more, so its reset has to be watched for.
        Ok(()) => tokio::select! {
            biased;
            second = poll_fn(|cx| rest.poll(cx)) => match second {
                Ok(()) => End::Closed,
                Err(Broken::Read(error)) => End::of(sink, &error),
                Err(Broken::Write(error)) => End::of(source, &error),
            },
            _ = done.source().ready(Interest::ERROR) => {
                let error = done.source().take_error().ok().flatten();
                End::of(source, &error.unwrap_or_else(|| io::Error::from_raw_os_error(libc::ECONNRESET)))
            }
        },
        Err(Broken::Read(error)) => End::of(source, &error),
        Err(Broken::Write(error)) => {
            let end = End::of(sink, &error);
            // A server that answers before it has read everything, then closes, resets; its answer still sits in our
            // receive queue, where the kernel keeps it, and the other side shall have it.
            if end == End::Reset(sink) {
                let _ = poll_fn(|cx| rest.poll(cx)).await;
            }
            end
        }
    }
}

/// Sends back to `client` what it sends.
pub(super) async fn echo(
    client: &mut TcpStream,
    from_client: &Cell<u64>,
    to_client: &Cell<u64>,
    buffers: &Buffers,
) -> End {
    let (read, write) = client.split();
    let counts = Counts { read: Some(from_client), written: Some(to_client) };
    let mut copy = Copy::new(read, write, counts, buffers);
    match poll_fn(|cx| copy.poll(cx)).await {
        Ok(()) => End::Closed,
        Err(Broken::Read(error) | Broken::Write(error)) => End::of(Side::Downstream, &error),
    }
}
