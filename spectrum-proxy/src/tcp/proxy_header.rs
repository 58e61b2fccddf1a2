//! Whom a connection is for, where a trusted proxy says so at its beginning; and saying it to an origin. What a header
//! looks like is `header`'s affair.

use std::io;
use std::time::Duration;

use rustix::net::SendFlags;
use tokio::time::timeout;

use super::stream::Stream;
use crate::header::{Extensions, Header, Parsed};
use crate::model::{Origins, ProxyVersion, TrustedProxies, UniqueIds};
use crate::report::{End, HeaderFault, Side};
use crate::session::Session;
use crate::unique_id::shown;

/// The time that a trusted proxy may take to say whom it speaks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Patience {
    /// It has nothing to wait for, so this is a lost packet or two.
    Usual,
    /// Too many of it say nothing already: the time for what is on its way.
    Short,
}

impl Patience {
    fn time(self) -> Duration {
        match self {
            Self::Usual => Duration::from_secs(3),
            Self::Short => Duration::from_millis(200),
        }
    }
}

/// The bytes that are looked at in one go: more than any header without extensions has.
const CHUNK: usize = 512;

/// For a `downstream` from a trusted proxy, reads the header it begins with and notes in `session` whom it names, and
/// what else it says if an origin shall be told. Others' first bytes are not looked at. What follows the header stays in the socket.
///
/// # Errors
/// How the connection ends instead.
pub(crate) async fn receive(
    downstream: &Stream,
    trusted: &TrustedProxies,
    session: &Session,
    to_origin: Option<ProxyVersion>,
    patience: Patience,
) -> Result<(), End> {
    if !trusted.trusts(session.client.get().ip()) {
        return Ok(());
    }
    // On the heap: few connections need the room, and all would have it for as long as they last.
    match Box::pin(timeout(patience.time(), read(downstream))).await {
        Ok(Ok((header, extensions))) => {
            if let Header::Proxied { client, dialled } = header {
                session.set_client(client, dialled);
            }
            if let Some(id) = extensions.unique_id() {
                // It has none yet.
                let _ = session.unique_id.set(shown(id));
            }
            if to_origin == Some(ProxyVersion::V2) && !extensions.is_empty() {
                session.extensions.set(Some(Box::new(extensions)));
            }
            Ok(())
        }
        Ok(Err(end)) => Err(end),
        Err(_elapsed) => Err(End::Headless(HeaderFault::Missing)),
    }
}

/// Takes a header and not a byte more, so that whoever relays the rest need not know that there was one.
async fn read(stream: &Stream) -> Result<(Header, Extensions), End> {
    let lost = |error: io::Error| End::of(Side::Downstream, &error);
    let mut chunk = [0; CHUNK];
    let mut taken = Vec::new();
    loop {
        let seen = stream.peek(&mut chunk).await.map_err(lost)?;
        let fresh = chunk.get_mut(..seen).unwrap_or_default();
        if fresh.is_empty() {
            return Err(End::Headless(HeaderFault::Missing));
        }
        let before = taken.len();
        taken.extend_from_slice(fresh);
        let (header, end) = match Header::parse(&taken) {
            Parsed::Complete(header, length) => (Some(header), length),
            Parsed::Incomplete => (None, taken.len()),
            Parsed::Malformed => return Err(End::Headless(HeaderFault::Malformed)),
        };
        // They are in the receive queue, so this does not wait.
        let part = fresh.get_mut(..end.saturating_sub(before)).unwrap_or_default();
        stream.read_exact(part).await.map_err(lost)?;
        if let Some(header) = header {
            let whole = taken.get(..end).unwrap_or_default();
            return Ok((header, Header::extensions(whole)));
        }
    }
}

/// Tells an origin that was just connected to who the client of `session` is, before anything else. The empty socket takes
/// it at once. It goes in one segment with what `downstream` has said already; where that is nothing, on its own, so that an
/// origin that speaks first is not kept waiting.
pub(crate) async fn send(
    downstream: &Stream,
    upstream: &Stream,
    origins: &Origins,
    session: &Session,
) -> Result<(), End> {
    let Some(version) = origins.header else { return Ok(()) };
    let header = Header::Proxied { client: session.client.get(), dialled: session.dialled.get() };
    let mut extensions = session.extensions.take().unwrap_or_default();
    if version == ProxyVersion::V2 && origins.unique_ids == UniqueIds::Made {
        let id = session.unique_id.get_or_init(|| session.worker().unique_ids.draw());
        extensions.identify(id.as_bytes());
    }
    let bytes = header.bytes_with(version, &extensions);
    let flags = if downstream.may_hold_bytes() { SendFlags::MORE } else { SendFlags::empty() };
    upstream.write_all_with(&bytes, flags).await.map_err(|error| End::of(Side::Upstream, &error))
}
