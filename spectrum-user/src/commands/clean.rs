//! `clean`: removes what killed instances left in a network namespace. Live instances lose nothing.

use std::io::{self, Write as _};

use anyhow::Context as _;
use tokio::runtime;

use crate::cli::CleanArgs;
use crate::confinement::take_up_capabilities;
use crate::instance::{LOCK_PATIENCE, leftovers, require_net_admin};
use crate::pinned::PinnedState;
use crate::registry::{Registry, run_dir};
use spectrum_steering::host::{self, NamespaceId};

/// Removes leftovers and says what they were, a line each.
pub(super) fn clean(args: &CleanArgs) -> anyhow::Result<()> {
    take_up_capabilities()?;
    require_net_admin("clean")?;
    if let Some(netns) = &args.netns {
        host::enter_namespace(netns)?;
    }
    let runtime = runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    let swept = runtime.block_on(async {
        let registry = Registry::open(&run_dir(), NamespaceId::current()?.inode())?;
        let lock = registry.lock(LOCK_PATIENCE)?;
        // What is pinned is no leftover; but its claim may be gone, or its routes. An instance mends what is its own.
        let lock = match lock.holder_of_pins()? {
            Some(_) => lock,
            None => PinnedState::open(lock).await?.map_or_else(|lock| lock, PinnedState::into_lock),
        };
        leftovers(&lock).await
    })?;
    let mut stdout = io::stdout().lock();
    match swept.iter().try_for_each(|leftover| writeln!(stdout, "removed {leftover}")) {
        // The reader has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("write what was removed"),
    }
}
