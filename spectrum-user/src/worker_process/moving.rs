//! UDP sessions on their way from one worker process to another, by a stream between the two: the steerer, which has made it, reads none
//! of them. Knows nothing of what a session is.

use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::UnixStream;

use super::wire::{Frame, halves};
use spectrum_proxy::{Moving, Workers};

/// The time for all of them.
pub(super) const MOVING: Duration = Duration::from_secs(20);

/// The longest message, in bytes: some dozens of sessions, with all that each may keep.
const LONGEST: usize = 16 << 20;

/// Leaves all listeners of `workers`, and gives their UDP sessions to whoever reads `stream`: how many.
pub(super) async fn leave(workers: &Workers, stream: OwnedFd) -> anyhow::Result<usize> {
    let op = "give UDP sessions to another worker process";
    workers.leave().await;
    let (outgoing, _incoming) = halves(opened(stream).context(op)?, 0);
    let (mut given, mut count) = (workers.give(), 0);
    while let Some((moving, sockets)) = given.recv().await {
        let number = moving.count();
        let frame = Frame::of(&moving, sockets).context(op)?;
        outgoing.send(&frame).await.context(op)?;
        count += number;
    }
    Ok(count)
}

/// Has `workers` go on with the UDP sessions that come by `stream`, to its end: how many.
pub(super) async fn adopt(workers: &Workers, stream: OwnedFd) -> anyhow::Result<usize> {
    let op = "take UDP sessions from another worker process";
    let (_outgoing, mut incoming) = halves(opened(stream).context(op)?, LONGEST);
    let mut count = 0;
    while let Some((moving, sockets)) = incoming.next::<Moving>().await.context(op)? {
        count += workers.adopt(moving, sockets).await;
    }
    Ok(count)
}

fn opened(stream: OwnedFd) -> std::io::Result<UnixStream> {
    let stream = std::os::unix::net::UnixStream::from(stream);
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}
