//! Being told to stop: a flag instead of a sudden death, so that every guard is dropped. Ends nothing by itself.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use anyhow::{Context as _, Result, ensure};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// A flag that Ctrl-C, or the like, raises. While one lives, the first such signal only raises its flag.
#[derive(Clone, Debug)]
pub struct Interrupt(Arc<Watch>);

/// One stretch of time in which signals do not kill.
#[derive(Debug)]
struct Watch {
    raised: Arc<AtomicBool>,
    watched: bool,
}

/// The flags that this process's handlers look at. They are registered once, since they cannot be taken back to what was.
#[derive(Debug)]
struct Handlers {
    /// True if the next signal ends the process as it always did.
    deadly: Arc<AtomicBool>,
    raised: Arc<AtomicBool>,
    watches: AtomicUsize,
}

static HANDLERS: OnceLock<Handlers> = OnceLock::new();

impl Interrupt {
    /// From now on these signals only raise the flag, until this is dropped. A second one ends the process as it always
    /// did.
    pub fn watch() -> Result<Self> {
        let handlers = if let Some(handlers) = HANDLERS.get() {
            handlers
        } else {
            let handlers = Handlers::register()?;
            HANDLERS.get_or_init(|| handlers)
        };
        if handlers.watches.fetch_add(1, Ordering::SeqCst) == 0 {
            handlers.raised.store(false, Ordering::SeqCst);
            handlers.deadly.store(false, Ordering::SeqCst);
        }
        Ok(Self(Arc::new(Watch { raised: Arc::clone(&handlers.raised), watched: true })))
    }

    /// One that never comes.
    #[must_use]
    pub fn never() -> Self {
        Self(Arc::new(Watch { raised: Arc::default(), watched: false }))
    }

    /// An error once the flag is up.
    pub fn check(&self) -> Result<()> {
        ensure!(!self.0.raised.load(Ordering::Relaxed), "interrupted");
        Ok(())
    }
}

impl Handlers {
    fn register() -> Result<Self> {
        let (deadly, raised) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        for signal in [SIGHUP, SIGINT, SIGTERM] {
            // In this order: the first signal makes the second deadly.
            signal_hook::flag::register_conditional_default(signal, Arc::clone(&deadly))
                .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&deadly)))
                .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&raised)))
                .context("watch for signals")?;
        }
        Ok(Self { deadly, raised, watches: AtomicUsize::new(0) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(handlers) = HANDLERS.get().filter(|_| self.watched)
            && handlers.watches.fetch_sub(1, Ordering::SeqCst) == 1
        {
            handlers.deadly.store(true, Ordering::SeqCst);
        }
    }
}
