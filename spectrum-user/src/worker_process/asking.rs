//! What the worker process asks the steerer for: what this instance binds, which it does not know itself, and sockets that it is
//! not permitted to make. Decides nothing.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;

use super::message::{DialPlace, FromWorker, Told, WorkerQuestion};
use super::waiters::Waiters;
use super::wire::Frame;
use crate::model::Hop;
use spectrum_proxy::{HostFile, OwnBindings, PrivilegedSocket};

/// The time for an answer. The thread that looks origins up waits for it.
const PATIENCE: Duration = Duration::from_secs(2);

/// So many places are remembered, with the ways that lead from there.
const REMEMBERED: usize = 16_384;

/// Takes the answer to a question, and the files that come with it.
type Taker = Box<dyn FnOnce(Told, Vec<OwnedFd>) + Send>;

/// Asks the steerer.
#[derive(Debug)]
pub(super) struct Asking {
    frames: UnboundedSender<Frame>,
    waiters: Waiters<Taker>,
}

impl Asking {
    /// One whose questions go by `frames`.
    pub(super) fn by(frames: UnboundedSender<Frame>) -> Self {
        Self { frames, waiters: Waiters::default() }
    }

    /// The answer to the question of this number, and the files that come with it.
    pub(super) fn told(&self, number: u64, told: Told, files: Vec<OwnedFd>) {
        if let Some(take) = self.waiters.take(number) {
            take(told, files);
        }
    }

    /// The bindings as the steerer knows them. When they change it says so, and these are of no use any more.
    pub(super) fn own_bindings(self: &Arc<Self>) -> OwnBindings {
        let (asking, of_addresses) = (Arc::clone(self), Arc::clone(self));
        let known = Remembered::default();
        OwnBindings::new(
            move |service, address, port, record| {
                let bound = DialPlace { service: service.clone(), address, port, record };
                known.or_ask(bound, |bound| match asking.ask(WorkerQuestion::Hops(bound), PATIENCE) {
                    Some((Told::Hops(hops), _)) => Some(hops),
                    _ => None,
                })
            },
            move || match of_addresses.ask(WorkerQuestion::Interfaces, PATIENCE) {
                Some((Told::Interfaces(addresses), _)) => addresses,
                _ => BTreeSet::new(),
            },
        )
    }

    /// Has the steerer make the sockets, and open the files, that this process is not permitted to.
    pub(super) fn ask_for_what_is_not_permitted(self: &Arc<Self>) {
        let (asking, of_files) = (Arc::clone(self), Arc::clone(self));
        PrivilegedSocket::ask(move |socket, taker| {
            asking.ask_for(WorkerQuestion::Socket(socket), move |told, files| taker(opened(&told, files)));
        });
        HostFile::ask(move |file| match of_files.ask(WorkerQuestion::File(file), PATIENCE) {
            Some((told, files)) => opened(&told, files),
            None => Err(io::ErrorKind::TimedOut.into()),
        });
    }

    /// The answer to `question`. Without one the steerer is on its way out, or stopped.
    fn ask(&self, question: WorkerQuestion, patience: Duration) -> Option<(Told, Vec<OwnedFd>)> {
        let (asker, answer) = sync_channel(1);
        // Who asked may have lost patience.
        self.ask_for(question, move |told, files| drop(asker.try_send((told, files))));
        let told = answer.recv_timeout(patience).ok();
        if told.is_none() {
            tracing::debug!("the steerer does not answer");
        }
        told
    }

    /// Has `take` called with the answer to `question`, or dropped where there will be none.
    fn ask_for(&self, question: WorkerQuestion, take: impl FnOnce(Told, Vec<OwnedFd>) + Send + 'static) {
        let number = self.waiters.number();
        let Ok(frame) = Frame::of(&FromWorker::Ask(number, question), Vec::new()) else { return };
        if self.waiters.enter(number, Box::new(take)).is_ok() && self.frames.send(frame).is_err() {
            drop(self.waiters.take(number));
        }
    }
}

/// The ways that the steerer has told of.
#[derive(Default)]
struct Remembered(Mutex<HashMap<DialPlace, Vec<Hop>>>);

impl Remembered {
    /// The ways that connections take which are dialled there, by `ask` if that was not asked before.
    fn or_ask(&self, place: DialPlace, ask: impl FnOnce(DialPlace) -> Option<Vec<Hop>>) -> Vec<Hop> {
        let known = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(hops) = known().get(&place) {
            return hops.clone();
        }
        // Nobody who asks waits for another's answer.
        let Some(hops) = ask(place.clone()) else { return Vec::new() };
        let mut known = known();
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(place, hops.clone());
        hops
    }
}

fn opened(told: &Told, files: Vec<OwnedFd>) -> io::Result<OwnedFd> {
    match told {
        Told::Opened(Ok(())) => files.into_iter().next().ok_or_else(|| io::ErrorKind::InvalidData.into()),
        Told::Opened(Err(errno)) => Err(io::Error::from_raw_os_error(*errno)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_steerer_has_told_is_not_asked_again_and_silence_is_no_answer() {
        let known = Remembered::default();
        let place = |last: u8| DialPlace {
            service: "web".parse().unwrap(),
            address: [203, 0, 113, last].into(),
            port: crate::model::OriginPort::Dialled,
            record: None,
        };
        let hops = vec![Hop { ports: "80".parse().unwrap(), service: None }];
        assert!(known.or_ask(place(1), |_| None).is_empty());
        assert_eq!(known.or_ask(place(1), |_| Some(hops.clone())), hops);
        assert_eq!(known.or_ask(place(1), |_| panic!("asked again")), hops);
        // That no way leads back is an answer too, and the one for most addresses.
        assert!(known.or_ask(place(2), |_| Some(Vec::new())).is_empty());
        assert!(known.or_ask(place(2), |_| panic!("asked again")).is_empty());
        for number in 0..=REMEMBERED {
            let place = DialPlace { record: u16::try_from(number).ok(), ..place(3) };
            known.or_ask(place, |_| Some(Vec::new()));
        }
        assert!(known.0.lock().unwrap().len() <= REMEMBERED);
    }
}
