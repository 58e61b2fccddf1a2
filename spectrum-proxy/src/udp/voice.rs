//! Voices: what answers from an address and port that clients have dialled. None of them hears anything, so that a voice costs
//! the same however many clients it speaks to, and stays mute should nothing steer datagrams to the listener any more.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::{Rc, Weak};

use tokio::net::UdpSocket;

use super::options;
use super::raw::RawSender;
use crate::limits::{Held, ServiceShare};
use crate::model::Family;
use crate::privileged::PrivilegedSocket;
use crate::report::Limit;

/// The most voices that outlast who speaks through them.
const LASTING: usize = 16;

/// What a session answers with.
#[derive(Clone)]
pub(super) enum Voice {
    /// The listener, which is bound to what was dialled, or to its port on every address: nothing steers to it.
    Listener(Rc<UdpSocket>, Option<IpAddr>),
    /// A socket that is bound to what was dialled, and shared by all who dialled that.
    Own(Rc<OwnVoice>),
    /// The session's own socket, which is connected to its client.
    Parted(Rc<OwnedFd>),
    /// Whatever address and port the answer is to have: where others have taken them, or descriptors are short.
    Raw(Rc<RawSender>),
    /// Nothing, for nothing is ever said.
    Silent,
}

impl Voice {
    /// True if `other` speaks through the same socket.
    pub(super) fn is_that_of(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Listener(one, from), Self::Listener(other, to)) => Rc::ptr_eq(one, other) && from == to,
            (Self::Own(one), Self::Own(other)) => Rc::ptr_eq(one, other),
            _ => false,
        }
    }

    /// The socket, and the address that has to be named where it is bound to all; `None` where there is no ordinary one.
    pub(super) fn socket(&self) -> Option<(BorrowedFd<'_>, Option<IpAddr>)> {
        match self {
            Self::Listener(socket, from) => Some((socket.as_fd(), *from)),
            Self::Own(voice) => Some((voice.socket.as_fd(), None)),
            Self::Parted(socket) => Some((socket.as_fd(), None)),
            Self::Raw(_) | Self::Silent => None,
        }
    }
}

/// An unconnected socket bound to a dialled address and port, with a filter that drops whatever comes.
pub(super) struct OwnVoice {
    socket: OwnedFd,
    dialled: SocketAddr,
    registry: Rc<Registry>,
    /// Of the service that needed it first.
    held: Held,
}

type Registry = RefCell<HashMap<SocketAddr, Weak<OwnVoice>>>;

impl Drop for OwnVoice {
    fn drop(&mut self) {
        self.registry.borrow_mut().remove(&self.dialled);
    }
}

/// A worker's voices.
#[derive(Default)]
pub(super) struct Voices {
    registry: Rc<Registry>,
    raw: [OnceCell<Option<Rc<RawSender>>>; 2],
    complained: Cell<bool>,
    /// Those that were opened last: sessions that last for a pair would have one opened again and again.
    lasting: RefCell<VecDeque<Rc<OwnVoice>>>,
}

impl Voices {
    /// The voice for what was `dialled`, the same for all as long as anybody has it. It takes a descriptor of `share` if it is new;
    /// the raw socket, which takes none, speaks in its place. Without either nothing can be sent from there, and an answer from
    /// anywhere else would be none: `None`.
    pub(super) fn of(&self, dialled: SocketAddr, share: &Rc<ServiceShare>) -> Result<Option<Voice>, Limit> {
        if let Some(voice) = self.registry.borrow().get(&dialled).and_then(Weak::upgrade) {
            return Ok(Some(Voice::Own(voice)));
        }
        let raw = || self.raw(Family::of(dialled.ip())).map(Voice::Raw);
        let held = match share.take(1) {
            Ok(held) => held,
            Err(limit) => return raw().map(Some).ok_or(limit),
        };
        match PrivilegedSocket::Voice(dialled).make() {
            Ok(socket) => {
                let registry = Rc::clone(&self.registry);
                let voice = Rc::new(OwnVoice { socket, dialled, registry, held });
                self.registry.borrow_mut().insert(dialled, Rc::downgrade(&voice));
                self.last(&voice);
                Ok(Some(Voice::Own(voice)))
            }
            Err(error) => {
                let raw = raw();
                if PrivilegedSocket::is_passing(&error) {
                    tracing::debug!(%dialled, %error, "nobody makes a socket for the dialled address in time");
                } else if self.complained.replace(true) {
                    tracing::debug!(%dialled, %error, "bind a socket to the dialled address");
                } else {
                    let consequence = if raw.is_some() { "answering by raw socket" } else { "not answering" };
                    tracing::warn!(%dialled, %error, "bind a socket to the dialled address; {consequence}, and not telling again");
                }
                Ok(raw)
            }
        }
    }

    /// Has `voice` last longer than who speaks through it, unless descriptors are short.
    fn last(&self, voice: &Rc<OwnVoice>) {
        let mut lasting = self.lasting.borrow_mut();
        let former = if lasting.len() < LASTING { None } else { lasting.pop_front() };
        if voice.held.has_plenty() {
            lasting.push_back(Rc::clone(voice));
        }
        // What it drops looks into the registry alone.
        drop(former);
    }

    /// Lets go of those through which nobody speaks.
    pub(super) fn rest(&self) {
        drop(self.lasting.take());
    }

    /// The worker's raw socket, opened when it is first asked for; `None` where that is not allowed.
    pub(super) fn raw(&self, family: Family) -> Option<Rc<RawSender>> {
        let [v4, v6] = &self.raw;
        let raw = match family {
            Family::Ipv4 => v4,
            Family::Ipv6 => v6,
        };
        let complain = |error: &io::Error| {
            tracing::warn!(%family, %error, "open raw socket; addresses and ports that others have bound stay unanswered");
        };
        PrivilegedSocket::once(raw, || RawSender::open(family).map(Rc::new), complain).cloned()
    }

    /// Has the raw socket at hand where somebody else makes voices: it speaks while they are waited for in vain.
    pub(super) fn be_ready(&self, family: Family) {
        if PrivilegedSocket::is_asked_for() {
            self.raw(family);
        }
    }

    /// The number of sockets.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.registry.borrow().len()
    }
}

/// A socket that is to be a voice of what was `dialled`.
pub(crate) fn open(dialled: SocketAddr) -> io::Result<OwnedFd> {
    let socket = options::unbound(dialled)?;
    options::widen(&socket);
    // Not that it hears any: where steering comes after GRO, the kernel looks for this socket to know whether somebody wants
    // trains of what was dialled.
    if let Err(error) = options::ask_for_circumstances(&socket, Family::of(dialled.ip())) {
        tracing::debug!(%dialled, %error, "ask for trains of datagrams");
    }
    socket.bind(&dialled.into())?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::limits::{DescriptorPool, Descriptors};

    #[test]
    fn who_dialled_the_same_has_one_voice_which_hears_nothing() {
        let descriptors = Descriptors::of(DescriptorPool::new(1024, 1, 0));
        let share = descriptors.share(&"games".parse().unwrap());
        let voices = Voices::default();
        let free = std::net::UdpSocket::bind("127.77.1.1:0").unwrap().local_addr().unwrap();
        let all: Vec<_> = (0..10).map(|_| voices.of(free, &share).unwrap().unwrap()).collect();
        assert!(all.iter().all(|voice| voice.is_that_of(&all[0])));
        assert_eq!(voices.count(), 1);
        let Voice::Own(own) = &all[0] else { panic!("no socket") };
        let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        client.send_to(b"is anybody there?", free).unwrap();
        let error = nix::sys::socket::recv(
            std::os::fd::AsRawFd::as_raw_fd(&own.socket),
            &mut [0; 16],
            nix::sys::socket::MsgFlags::MSG_DONTWAIT,
        );
        assert_eq!(error, Err(nix::errno::Errno::EAGAIN));
        let other = Voices::default().of(free, &share).unwrap();
        assert!(matches!(other, Some(Voice::Own(_))), "another worker has one beside it");
        drop((all, other));
        assert_eq!(voices.count(), 1, "lasts for the next one");
        voices.rest();
        assert_eq!(voices.count(), 0);
    }
}
