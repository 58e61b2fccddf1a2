//! `confined`, which nobody is told of: becomes a process as those of an instance are, tries what they must not be able to do, and
//! stays, so that the kernel can be asked what it may. Serves nothing.

use std::io::Write as _;
use std::process::Command;
use std::thread;

use anyhow::Context as _;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use serde_json::json;

use crate::cli::{ConfinedArgs, ConfinedProcess};
use crate::config::{Config, Planned};
use crate::confinement::{Circumstances, Needs, WorkerUser, confine_steerer, confine_worker, trespasses};
use crate::registry::GROUP;

/// Prints a line of JSON, and stays until it is killed.
pub(super) fn confined(args: &ConfinedArgs) -> anyhow::Result<()> {
    let Planned { config, .. } = Config::load(&args.config)?;
    let user = WorkerUser::choose(args.user.as_deref())?;
    let (process, report) = match args.process {
        ConfinedProcess::None => ("none", json!(null)),
        ConfinedProcess::Steerer => {
            let needs = Needs::of_steerer(&config, Circumstances::of_host(&user, GROUP));
            ("steerer", serde_json::to_value(confine_steerer(&needs)?)?)
        }
        ConfinedProcess::Worker => {
            let needs = Needs::of_worker(&config.services);
            let report = confine_worker(&user, &needs)?;
            // Asked for before, it would be forgotten.
            set_pdeathsig(Signal::SIGKILL).context("die with the steerer")?;
            ("worker", serde_json::to_value(report)?)
        }
    };
    // As it is to be from the first thread on.
    let threads = (0..2).map(|_| thread::Builder::new().spawn(thread::park));
    let threads: Vec<_> = threads.collect::<Result<_, _>>().context("start threads")?;
    let tried = match args.process {
        ConfinedProcess::Steerer => Vec::new(),
        ConfinedProcess::None | ConfinedProcess::Worker => trespasses(),
    };
    let line = json!({ "process": process, "pid": std::process::id(), "report": report, "tried": tried });
    writeln!(std::io::stdout(), "{line}")?;
    if args.process == ConfinedProcess::Steerer {
        let mut worker = Command::new(std::env::current_exe()?);
        worker.args(["confined", "worker", "--config"]).arg(&args.config);
        if let Some(user) = &args.user {
            worker.args(["--user", user]);
        }
        worker.spawn().context("start the worker process")?.wait()?;
    }
    for thread in threads {
        let _ = thread.join();
    }
    Ok(())
}
