//! Both directions of a proxied connection, and how it ends. How bytes move in one direction is `direction`'s.

mod buffers;
mod delivery;
mod direction;
mod pipes;
#[cfg(test)]
mod tests;
mod watch;

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};

use tokio::io::Interest;

use crate::report::{End, Side};
use crate::tcp::stream::Stream;
use crate::traffic::Meter;
pub(crate) use buffers::Buffers;
use direction::{Broken, Direction, Fin, Meters};
pub(crate) use direction::{Means, Strategy};
pub(crate) use pipes::Pipes;
pub(crate) use watch::{ConnectionTimer, keep};

/// Passes bytes, FINs and, by telling the end, resets between the two until neither has more to say, or `watch` says that
/// it is over. The FIN that comes last is passed on by closing both, which is for the caller to do at [`End::Closed`].
///
/// `from_client` and `to_client` count as it goes, so they hold whatever becomes of the future.
pub(crate) async fn relay(
    downstream: &Stream,
    upstream: &Stream,
    from_client: &Meter,
    to_client: &Meter,
    means: Means<'_>,
    watch: &ConnectionTimer<'_>,
) -> End {
    tokio::select! {
        biased;
        end = pass(downstream, upstream, from_client, to_client, means, watch) => end,
        end = watch.expired([downstream, upstream], || watch.keep(upstream)) => end,
    }
}

async fn pass(
    downstream: &Stream,
    upstream: &Stream,
    from_client: &Meter,
    to_client: &Meter,
    means: Means<'_>,
    watch: &ConnectionTimer<'_>,
) -> End {
    let counts = Meters { read: Some(from_client), written: None };
    let mut up = Direction::new(downstream, upstream, counts, means);
    let counts = Meters { read: None, written: Some(to_client) };
    let mut down = Direction::new(upstream, downstream, counts, means);

    let (source, first) = poll_fn(|cx| match poll_watched(&mut up, watch, cx) {
        Poll::Ready(first) => Poll::Ready((Side::Downstream, first)),
        Poll::Pending => poll_watched(&mut down, watch, cx).map(|first| (Side::Upstream, first)),
    })
    .await;
    let (done, rest, sink) = match source {
        Side::Downstream => (&up, &mut down, Side::Upstream),
        Side::Upstream => (&down, &mut up, Side::Downstream),
    };
    match first {
        // The source is half-closed. Nobody reads from it any more, so its reset has to be watched for.
        Ok(()) => {
            watch.half_closed();
            rest.fin = Fin::ByClosing;
            tokio::select! {
                biased;
                second = poll_fn(|cx| poll_watched(rest, watch, cx)) => match second {
                    Ok(()) => End::Closed,
                    Err(Broken::Read(error)) => End::of(sink, &error),
                    Err(Broken::Write(error)) => End::of(source, &error),
                },
                _ = done.source().ready(Interest::ERROR) => {
                    let error = done.source().take_error().ok().flatten();
                    End::of(source, &error.unwrap_or_else(|| io::Error::from_raw_os_error(libc::ECONNRESET)))
                }
            }
        }
        Err(Broken::Read(error)) => End::of(source, &error),
        Err(Broken::Write(error)) => {
            let end = End::of(sink, &error);
            // A server that answers before it has read everything, then closes, resets; its answer still sits in our
            // receive queue, where the kernel keeps it, and the other side shall have it. The reset itself was told to us
            // by this error, and reading will find an end in order behind the answer, which nobody shall be told.
            if end == End::Reset(sink) {
                rest.fin = Fin::Withheld;
                let _ = poll_fn(|cx| poll_watched(rest, watch, cx)).await;
            }
            end
        }
    }
}

/// Sends back to `client` what it sends. Its FIN is passed on by closing, too.
pub(crate) async fn echo(
    client: &Stream,
    from_client: &Meter,
    to_client: &Meter,
    means: Means<'_>,
    watch: &ConnectionTimer<'_>,
) -> End {
    let counts = Meters { read: Some(from_client), written: Some(to_client) };
    let mut back = Direction::new(client, client, counts, means);
    back.fin = Fin::ByClosing;
    match poll_fn(|cx| poll_watched(&mut back, watch, cx)).await {
        Ok(()) => End::Closed,
        Err(Broken::Read(error) | Broken::Write(error)) => End::of(Side::Downstream, &error),
    }
}

fn poll_watched(
    direction: &mut Direction<'_>,
    watch: &ConnectionTimer<'_>,
    cx: &mut Context<'_>,
) -> Poll<Result<(), Broken>> {
    let before = direction.moves;
    let polled = direction.poll(cx);
    if direction.moves != before {
        watch.touch();
    }
    polled
}
