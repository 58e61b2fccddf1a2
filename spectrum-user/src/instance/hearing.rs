//! The thread that hears signals and whoever asks, at every moment of an instance's life, whatever the thread that starts,
//! reloads and stops it is doing. Hands on what changes the instance, and has the rest answered from what it has published.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc as std_mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use tokio::runtime::{self, Handle};
use tokio::sync::{mpsc, oneshot};

use super::exit_code;
use super::signals::{self, Signalled, Signals};
use super::stop::{Stop, Stopper};
use crate::control::{Asked, Request, SharedAnswer};
use crate::view::{InstanceState, Present, Published, Scope};

/// Reloads that may wait for their turn. Each reads the file anew, so more would change nothing.
const RELOADS: usize = 4;

/// Requests on their way: as many as there are conversations.
const WAITING: usize = 16;

/// The time in which a signal that has come is obeyed, and an answer written.
const MOMENT: Duration = Duration::from_millis(30);

/// Deep enough for everything that runs here.
const STACK: usize = 1024 * 1024;

/// The most that those who ask may have to wait for each other's sake.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The threads that hear. They go with the process.
#[derive(Debug)]
pub(super) struct Hearing {
    stop: Stop,
    reloads: mpsc::Receiver<ChangeAsked>,
    /// Those who say what is withdrawn, until somebody hears them.
    announces: Option<mpsc::Receiver<Asked>>,
    /// The same of those who say who is denied.
    denials: Option<mpsc::Receiver<Asked>>,
    /// True if a signal is among these: those that come meanwhile are one with it.
    signal_waits: Arc<AtomicBool>,
    requests: mpsc::Sender<Asked>,
    /// For what was asked before.
    later: mpsc::Sender<ChangeAsked>,
    handle: Handle,
    /// Dropping it ends the thread.
    _end: oneshot::Sender<()>,
}

/// The wish for a reload or an upgrade.
#[derive(Debug)]
pub(super) enum ChangeAsked {
    /// A program that waits for an answer.
    Asker(Asked),
    /// Whoever sent SIGHUP reads the log.
    Reload,
    /// The same of SIGUSR2.
    Upgrade,
}

impl Hearing {
    /// Begins to hear: signals at once, and what is sent to [`requests`](Self::requests). What is asked is answered from what
    /// is `published`. The threads are in the network namespace that the calling thread is in.
    pub(super) fn begin(published: Published) -> anyhow::Result<Self> {
        let (stopper, stop) = Stopper::new();
        let (reload, reloads) = mpsc::channel(RELOADS);
        let (later, signalled) = (reload.clone(), reload.clone());
        let (announce, announces) = mpsc::channel(WAITING);
        let (deny, denials) = mpsc::channel(WAITING);
        let (requests, asked) = mpsc::channel(WAITING);
        let (questions, to_answer) = mpsc::channel(WAITING);
        let (end, ended) = oneshot::channel();
        let (report, reported) = std_mpsc::sync_channel(1);
        let signal_waits = Arc::new(AtomicBool::new(false));
        let waits = Arc::clone(&signal_waits);
        let op = "start the thread that hears signals and requests";
        let own = published.clone();
        thread::Builder::new()
            .name("control".into())
            .stack_size(STACK)
            .spawn(move || {
                let begun = begin();
                let (runtime, signals) = match begun {
                    Ok(begun) => begun,
                    Err(error) => return drop(report.send(Err(error))),
                };
                let _ = report.send(Ok(runtime.handle().clone()));
                let hands = Hands { reload, announce, deny, questions };
                runtime.block_on(async {
                    tokio::select! {
                        _ = ended => {}
                        () = hear_signals(signals, &stopper, &signalled, &waits) => {}
                        () = hear_requests(asked, &own, &hands) => {}
                    }
                });
                runtime.shutdown_background();
            })
            .context(op)?;
        thread::Builder::new()
            .name("answers".into())
            .stack_size(STACK)
            .spawn(move || answer(to_answer, &published))
            .context(op)?;
        let handle =
            reported.recv().map_err(|_gone| anyhow!("it died")).and_then(|handle| Ok(handle?)).context(op)?;
        Ok(Self {
            stop,
            reloads,
            announces: Some(announces),
            denials: Some(denials),
            signal_waits,
            requests,
            later,
            handle,
            _end: end,
        })
    }

    /// The listener for the order to stop.
    pub(super) fn stop(&self) -> Stop {
        self.stop.clone()
    }

    /// The sender of requests.
    pub(super) fn requests(&self) -> mpsc::Sender<Asked> {
        self.requests.clone()
    }

    /// Those who say what is withdrawn, for whoever hears them from now on.
    pub(super) fn announces(&mut self) -> Option<mpsc::Receiver<Asked>> {
        self.announces.take()
    }

    /// Those who say who is denied, for whoever hears them from now on.
    pub(super) fn denials(&mut self) -> Option<mpsc::Receiver<Asked>> {
        self.denials.take()
    }

    /// The runtime that hears.
    pub(super) fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// The next one who wants a reload and has not left.
    ///
    /// # Errors
    /// The thread has died.
    pub(super) async fn reload(&mut self) -> anyhow::Result<ChangeAsked> {
        loop {
            match self.reloads.recv().await {
                Some(ChangeAsked::Asker(asked)) if asked.is_gone() => {}
                Some(asked) => {
                    if matches!(asked, ChangeAsked::Reload) {
                        // The file is read after this, so whoever signals from now on wants another reload.
                        self.signal_waits.store(false, Ordering::Release);
                    }
                    return Ok(asked);
                }
                None => {
                    return Err(anyhow!("the thread that hears signals and requests has ended unexpectedly"));
                }
            }
        }
    }

    /// Has signals wait for another version of the program, and refuses those who asked and whose turn has not come; whether a reload by a
    /// signal is among these.
    ///
    /// # Errors
    /// We are told to stop, so that nothing else is to be done.
    pub(super) async fn settle(&mut self) -> anyhow::Result<bool> {
        let held = self.handle.spawn(async {
            let held = signals::hold();
            // What came before is obeyed, and what was answered is written.
            tokio::time::sleep(MOMENT).await;
            held
        });
        held.await.context("hold signals")?.context("hold signals")?;
        self.stop.check()?;
        let mut reload_waits = false;
        while let Ok(asked) = self.reloads.try_recv() {
            match asked {
                ChangeAsked::Asker(asked) => {
                    refuse_reload(ChangeAsked::Asker(asked), InstanceState::Upgrading);
                }
                ChangeAsked::Reload => reload_waits = true,
                ChangeAsked::Upgrade => {}
            }
        }
        Ok(reload_waits)
    }

    /// Has a reload take place as if SIGHUP had come.
    pub(super) fn remember_reload(&self) {
        let _ = self.later.try_send(ChangeAsked::Reload);
    }

    /// Hears signals again.
    pub(super) fn go_on(&self) {
        self.handle.spawn(async {
            if let Err(error) = signals::release() {
                tracing::error!(%error, "hear signals again");
            }
        });
    }

    /// Refuses those whose turn has not come.
    pub(super) fn refuse_reloads(&mut self) {
        while let Ok(asked) = self.reloads.try_recv() {
            refuse_reload(asked, InstanceState::Draining);
        }
    }
}

fn begin() -> io::Result<(runtime::Runtime, Signals)> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let signals = {
        let _on_it = runtime.enter();
        Signals::catch()?
    };
    Ok((runtime, signals))
}

async fn hear_signals(
    mut signals: Signals,
    stopper: &Stopper,
    reload: &mpsc::Sender<ChangeAsked>,
    waits: &AtomicBool,
) {
    loop {
        match signals.next().await {
            // One that waits reads the file after this moment, a signal or, where there is no room, somebody else.
            Signalled::Reload => {
                if !waits.swap(true, Ordering::AcqRel) && reload.try_send(ChangeAsked::Reload).is_err() {
                    waits.store(false, Ordering::Release);
                }
            }
            Signalled::Stop => stopper.stop(),
            Signalled::Upgrade => {
                if reload.try_send(ChangeAsked::Upgrade).is_err() {
                    tracing::warn!("SIGUSR2 is not obeyed: too many wait for a reload or an upgrade");
                }
            }
        }
    }
}

/// Those to whom requests are handed on.
struct Hands {
    reload: mpsc::Sender<ChangeAsked>,
    announce: mpsc::Sender<Asked>,
    deny: mpsc::Sender<Asked>,
    questions: mpsc::Sender<Asked>,
}

async fn hear_requests(mut asked: mpsc::Receiver<Asked>, published: &Published, hands: &Hands) {
    while let Some(asked) = asked.recv().await {
        match &asked.request {
            Request::Bindings(query) => match Present::bindings(&published.now(), query) {
                Ok(batches) => asked.listed(batches),
                Err(error) => refuse(asked, &error.into()),
            },
            Request::Denied => asked.listed(published.now().denied()),
            Request::Origin(_) => drop(tokio::spawn(set_origin(asked, published.now()))),
            Request::Register(_)
            | Request::Reload(_)
            | Request::Renew
            | Request::Unregister(_)
            | Request::Upgrade(_)
            | Request::Weight(_) => {
                let state = published.now().state;
                if matches!(state, InstanceState::LameDuck | InstanceState::Draining) {
                    refuse_reload(ChangeAsked::Asker(asked), state);
                } else if let Err(error) = hands.reload.try_send(ChangeAsked::Asker(asked)) {
                    refuse_reload(error.into_inner(), state);
                }
            }
            Request::Announce(_) | Request::Withdraw(_) => {
                let state = published.now().state;
                let refused = if matches!(state, InstanceState::LameDuck | InstanceState::Draining) {
                    Some(asked)
                } else {
                    hands.announce.try_send(asked).err().map(mpsc::error::TrySendError::into_inner)
                };
                if let Some(asked) = refused {
                    let why = format!("announce: nothing can be changed now, since the instance is {state}");
                    asked.refused(&why, exit_code::FAILURE, &[]);
                }
            }
            Request::Deny(_) => {
                let state = published.now().state;
                let refused = if state == InstanceState::Draining {
                    Some(asked)
                } else {
                    hands.deny.try_send(asked).err().map(mpsc::error::TrySendError::into_inner)
                };
                if let Some(asked) = refused {
                    let why = format!("deny: nothing can be changed now, since the instance is {state}");
                    asked.refused(&why, exit_code::FAILURE, &[]);
                }
            }
            Request::TopSources(query) => match published.now().top_sources(query) {
                Ok(answer) => asked.done(&answer),
                Err(error) => refuse(asked, &error),
            },
            Request::Configuration | Request::Explain(_) | Request::Status => {
                // There are no more conversations than there is room.
                if hands.questions.send(asked).await.is_err() {
                    return;
                }
            }
        }
    }
}

async fn set_origin(asked: Asked, present: Arc<Present>) {
    let Request::Origin(query) = &asked.request else { return };
    match present.set_origin(query, asked.peer).await {
        Ok(answer) => asked.done(&answer),
        Err(error) => refuse(asked, &error),
    }
}

/// Refuses whoever asks for a reload or an upgrade of an instance in this `state`. Who sent a signal hears nothing.
pub(super) fn refuse_reload(asked: ChangeAsked, state: InstanceState) {
    let ChangeAsked::Asker(asked) = asked else { return };
    let what = match asked.request {
        Request::Register(_) => "register",
        Request::Unregister(_) => "unregister",
        Request::Upgrade(_) => "upgrade",
        Request::Weight(_) => "weight",
        _ => "reload",
    };
    let why = match state {
        InstanceState::LameDuck | InstanceState::Draining => {
            "the instance is draining, since it was told to stop; start it anew".to_owned()
        }
        InstanceState::Upgrading => "another version of the program is taking over; try again".to_owned(),
        _ => format!(
            "the instance is busy: it is {state}, and {RELOADS} more wait to have it reload; try again"
        ),
    };
    asked.refused(&format!("{what}: {why}"), exit_code::FAILURE, &[]);
}

fn refuse(asked: Asked, error: &anyhow::Error) {
    asked.refused(&format!("{error:#}"), exit_code::code(error), exit_code::problems(error));
}

/// Answers what takes time, one after the other. All who ask for the status while one is made get the next one: nobody's is
/// older than their question, and it is made no more often than half of the time allows.
fn answer(mut questions: mpsc::Receiver<Asked>, published: &Published) {
    while let Some(first) = questions.blocking_recv() {
        let begun = Instant::now();
        let mut asked = vec![first];
        while let Ok(more) = questions.try_recv() {
            asked.push(more);
        }
        let (configuration, asked): (Vec<_>, Vec<_>) =
            asked.into_iter().partition(|asked| matches!(asked.request, Request::Configuration));
        if configuration.iter().any(|asked| !asked.is_gone()) {
            let answer = SharedAnswer::done(&published.now().configuration());
            for asked in configuration {
                asked.answered(answer.clone());
            }
        }
        let (explain, status): (Vec<_>, Vec<_>) =
            asked.into_iter().partition(|asked| matches!(asked.request, Request::Explain(_)));
        if status.iter().any(|asked| !asked.is_gone()) {
            let answer = SharedAnswer::done(&published.now().view(Scope::All));
            for asked in status {
                asked.answered(answer.clone());
            }
        }
        for asked in explain {
            if asked.is_gone() {
                continue;
            }
            if let Request::Explain(query) = &asked.request {
                match published.now().explain(query) {
                    Ok(explanation) => asked.done(&explanation),
                    Err(error) => refuse(asked, &error.into()),
                }
            }
        }
        thread::sleep(begun.elapsed().min(LONGEST_PAUSE));
    }
}
