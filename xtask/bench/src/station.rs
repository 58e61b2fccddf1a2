//! A subject on a thread that measures it on request, with its server. One per subject: a rule or program made for one must not
//! cost another one anything. Does not know what is measured.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result};

use xtask::interrupt::Interrupt;
use xtask::server::Server;

use super::cpu::{self, Meter};
use super::slices::Sample;

/// A subject, ready to be measured. Its server ends when it is dropped.
#[derive(Debug)]
pub(super) struct Station {
    /// The subject's name.
    pub(super) name: &'static str,
    requests: Option<Sender<Duration>>,
    samples: Receiver<Result<Sample>>,
    thread: Option<JoinHandle<()>>,
}

impl Station {
    /// Starts a thread that stays on one CPU, where `set_up` starts the server and says what else `slice` needs.
    pub(super) fn of<Means>(
        name: &'static str,
        interrupt: &Interrupt,
        set_up: impl FnOnce(&Interrupt) -> Result<(Server, Means)> + Send + 'static,
        slice: impl Fn(&Means, Duration, &Meter) -> Result<Sample> + Send + 'static,
    ) -> Result<Self> {
        let (requests, requested) = channel::<Duration>();
        let (results, samples) = channel();
        let (opened, opening) = channel();
        let interrupt = interrupt.clone();
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let begun = cpu::stay_on_one().and_then(|()| set_up(&interrupt));
                let metered = begun.and_then(|(server, means)| Ok((Meter::of(&[&server])?, server, means)));
                let (meter, server, means) = match metered {
                    Ok(metered) => metered,
                    Err(error) => return drop(opened.send(Err(error))),
                };
                let _ = opened.send(Ok(()));
                for length in requested {
                    if results.send(slice(&means, length, &meter)).is_err() {
                        break;
                    }
                }
                drop(server);
            })
            .context("start a thread")?;
        opening.recv().context("wait for the server")?.with_context(|| format!("set up {name}"))?;
        Ok(Self { name, requests: Some(requests), samples, thread: Some(thread) })
    }

    /// Measures for `length`.
    pub(super) fn measure(&self, length: Duration) -> Result<Sample> {
        let requests = self.requests.as_ref().context("ask for a slice")?;
        requests.send(length).context("ask for a slice")?;
        self.samples.recv().context("wait for a slice")?.with_context(|| format!("measure {}", self.name))
    }
}

impl Drop for Station {
    fn drop(&mut self) {
        // Without requests the thread ends its server, which must not outlive us.
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported where it happened.
            let _ = thread.join();
        }
    }
}
