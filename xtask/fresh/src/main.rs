//! `fresh`: what a new user meets. README's commands in a clean Debian, as they are typed; what the set-up does to a host
//! that has services of its own; the documented unit under a real systemd. Changes nothing of this host but the cache.

#![expect(clippy::print_stdout, reason = "a developer's tool talks on standard output")]

mod base;
mod booted;
mod contained;
mod containers;
mod control;
mod life;
mod load;
mod packaged;
mod packages;
mod processes;
mod registries;
mod release;
mod room;
mod rust;
mod scenario;
mod services;
mod snapshot;
mod sockets;
mod unit;
mod usage;
mod waited;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Command, ExitCode};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, Subcommand};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use xtask::build;
use xtask::ebpf::toolchain::tool_root;
use xtask::end;
use xtask::interrupt::Interrupt;
use xtask::privilege;
use xtask::setup::{self, Consent, Purpose};
use xtask::shell;
use xtask::style::Style;
use xtask::workspace;

use base::Base;
use containers::ContainersOptions;
use packages::PackagesOptions;
use release::Release;
use room::{Network, Room, RoomOptions};
use rust::{Rust, Rustup};
use usage::{Took, Usage, said};
use waited::run_to_end;

/// The clone's place in a root.
const WORK_TREE: &str = "/root/spectrum";

/// Run README's commands in a clean Debian, as a new user types them, and say what each took
#[derive(Debug, Parser)]
#[command(name = "cargo xtask fresh", bin_name = "cargo xtask fresh", args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    part: Option<Part>,
    #[command(flatten)]
    options: FreshOptions,
    /// Only say what is missing, and install nothing
    #[arg(long)]
    no_install: bool,
}

/// Options of `fresh`.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag that somebody types")]
struct FreshOptions {
    /// With Debian's own Rust, and no other
    #[arg(long)]
    debian: bool,
    /// With rustup's stable Rust, and no other; the default where there is one
    #[arg(long)]
    rustup: bool,
    /// Only README's first command
    #[arg(long, conflicts_with = "test")]
    demo: bool,
    /// Of README's second command only the tests with this in their names
    #[arg(long, value_name = "NAME")]
    test: Option<String>,
    /// Then see that the set-up leaves a host's services alone, and run the documented unit under systemd
    #[arg(long)]
    services: bool,
    /// Instead of all that: the program that this host builds, as a service under a real systemd
    #[arg(long, conflicts_with_all = ["debian", "rustup", "demo", "test", "services"])]
    systemd: bool,
    /// Instead of all that: the package, installed, upgraded under load and removed again in a clean Debian of that release, or
    /// of each
    #[arg(long, value_name = "RELEASE", num_args = 0.., conflicts_with_all = ["debian", "rustup", "demo", "test", "services", "systemd"])]
    package: Option<Vec<Release>>,
    /// Instead of all that: the package's recipe of a container, built and run with podman in a clean Debian
    #[arg(long, conflicts_with_all = ["debian", "rustup", "demo", "test", "services", "systemd", "package"])]
    container: bool,
    /// With --systemd, --package or --container: this build of the program, and not one that is made now
    #[arg(long, value_name = "PROGRAM")]
    program: Option<PathBuf>,
    /// With --package: upgrade from a package of this build, as of the last version, and not from one of the same
    #[arg(long, value_name = "PROGRAM", requires = "package")]
    before: Option<PathBuf>,
    /// With --package: judge it by lintian of each release as well
    #[arg(long, requires = "package")]
    lintian: bool,
}

/// A part that runs as root, or in a room.
#[derive(Debug, Subcommand)]
enum Part {
    /// In a room: the set-up of the tests on a host that has services of its own
    #[command(hide = true)]
    CheckServices,
    /// In a room: the container
    #[command(hide = true)]
    CheckContainer,
    /// The part of --container that runs as root
    #[command(hide = true)]
    Containers(ContainersOptions),
    /// In a room whose init is systemd: the package
    #[command(hide = true)]
    CheckPackage,
    /// In a room whose init is systemd: both processes of the service, and other users
    #[command(hide = true)]
    CheckProcesses,
    /// In a room whose init is systemd: servers that get their sockets from it, and ours that registers them
    #[command(hide = true)]
    CheckSockets,
    /// In a room whose init is systemd: the documented unit
    #[command(hide = true)]
    CheckUnit,
    /// The part of --package that runs as root
    #[command(hide = true)]
    Packages(PackagesOptions),
    /// The first process of a room
    #[command(hide = true)]
    Room(RoomOptions),
    /// In a room: only the set-up of the tests
    #[command(hide = true)]
    SetUpTests,
    /// All of it, as root
    #[command(hide = true)]
    Stage(StageOptions),
    /// The part of --systemd that runs as root
    #[command(hide = true)]
    Systemd(SystemdOptions),
}

/// Options of the part that runs as root.
#[derive(Debug, clap::Args)]
struct StageOptions {
    #[arg(long)]
    cache: PathBuf,
    /// A clean clone
    #[arg(long)]
    clone: PathBuf,
    #[arg(long)]
    rust: Vec<Rust>,
    #[arg(long)]
    demo: bool,
    #[arg(long)]
    test: Option<String>,
    #[arg(long)]
    services: bool,
    /// Do not run README's commands, and take the programs for --services from this target directory
    #[arg(long)]
    built: Option<PathBuf>,
}

/// Options of the part of --systemd that runs as root.
#[derive(Debug, clap::Args)]
struct SystemdOptions {
    #[arg(long)]
    cache: PathBuf,
    #[arg(long)]
    program: PathBuf,
}

/// A command that ran, and its place.
struct Stage<'a> {
    options: &'a StageOptions,
    base: Base,
    interrupt: Interrupt,
    style: Style,
    report: Vec<String>,
}

fn main() -> ExitCode {
    let Cli { part, options, no_install } = Cli::parse();
    end(match part {
        Some(part) => self::part(&part),
        None => fresh(&options, Consent::unless(no_install)),
    })
}

/// Clones the work tree as the invoking user, and hands the rest to root.
fn fresh(options: &FreshOptions, consent: Consent) -> Result<ExitCode> {
    setup::ready(&[Purpose::Fresh], consent)?;
    let interrupt = Interrupt::watch()?;
    let cache = tool_root("fresh", "1").context("find a place for the cache: there is no home directory")?;
    if options.systemd {
        return under_systemd(options, &cache, consent);
    }
    if let Some(releases) = &options.package {
        let programs =
            packages::Programs { now: options.program.as_deref(), before: options.before.as_deref() };
        return packages::fresh(releases, programs, options.lintian, &cache);
    }
    if options.container {
        return containers::fresh(options.program.as_deref(), &cache);
    }
    let clone = clone(&interrupt)?;
    let mut rusts = Vec::new();
    let has_choice = options.rustup || options.debian;
    if options.rustup || (!has_choice && Rustup::find().is_ok()) {
        rusts.push("rustup");
    }
    if options.debian || rusts.is_empty() {
        rusts.push("debian");
    }
    // Root's home may be another: what is the user's is named.
    let mut environment = registries::environment();
    environment.push(("CARGO_HOME", registries::cargo_home().display().to_string()));
    if rusts.contains(&"rustup") {
        let rustup = Rustup::find()?;
        let home = rustup.toolchain.ancestors().nth(2).context("find rustup's home")?;
        environment.push(("RUSTUP_HOME", home.display().to_string()));
    }
    let mut stage = privilege::as_root(env::current_exe().context("find this program")?, &environment)?;
    stage.args(["stage", "--cache"]).arg(&cache).arg("--clone").arg(clone.path());
    for rust in rusts {
        stage.args(["--rust", rust]);
    }
    if let Some(name) = &options.test {
        stage.arg("--test").arg(name);
    }
    for (flag, is_given) in [("--demo", options.demo), ("--services", options.services)] {
        if is_given {
            stage.arg(flag);
        }
    }
    // Ctrl-C reaches the stage as well; we wait for it to clean up.
    let status = shell::status(&mut stage)?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Builds as the invoking user, and hands the rest to root.
fn under_systemd(options: &FreshOptions, cache: &Path, consent: Consent) -> Result<ExitCode> {
    let program = if let Some(program) = &options.program {
        program.clone()
    } else {
        setup::ready(&[Purpose::Build], consent)?;
        build::spectrum_user()?;
        workspace::spectrum_user()
    };
    let own = env::current_exe().context("find this program")?;
    let mut stage = privilege::as_root(own, &registries::environment())?;
    stage.args(["systemd", "--cache"]).arg(cache).arg("--program").arg(program);
    let status = shell::status(&mut stage)?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs one of the parts.
fn part(part: &Part) -> Result<ExitCode> {
    match part {
        Part::CheckContainer => contained::check(),
        Part::CheckPackage => packaged::check(),
        Part::CheckServices => services::check(),
        Part::CheckProcesses => processes::check(),
        Part::CheckSockets => sockets::check(),
        Part::CheckUnit => unit::check(),
        Part::Containers(options) => containers::root(options),
        Part::Packages(options) => packages::root(options),
        Part::Room(options) => room::room(options),
        Part::SetUpTests => setup::ready(&[Purpose::Test], Consent::Given).map(|()| ExitCode::SUCCESS),
        Part::Stage(options) => stage(options),
        Part::Systemd(options) => systemd(options),
    }
}

/// A directory that goes away with this value.
#[derive(Debug)]
struct Clone(PathBuf);

impl Clone {
    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Clone {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn clone(interrupt: &Interrupt) -> Result<Clone> {
    let root = workspace::root();
    let git = |words: &[&str]| {
        let mut git = Command::new("git");
        git.current_dir(root).args(words);
        git
    };
    let changes = shell::stdout(&mut git(&["status", "--porcelain", "--untracked-files=no"]))?;
    if !changes.is_empty() {
        println!("what is not committed is left out: {} files", changes.lines().count());
    }
    let clone = Clone(workspace::target_dir().join(format!("fresh.{}", process::id())));
    let mut command = git(&["clone", "--quiet", "--no-hardlinks", "."]);
    run_to_end(command.arg(&clone.0), interrupt)?;
    Ok(clone)
}

/// Sees to it that nothing that is mounted from now on is seen outside.
fn keep_mounts_private() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("enter a mount namespace")?;
    let nothing = None::<&str>;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)
        .context("keep mounts private")
}

/// The program as a service under systemd. As root.
fn systemd(options: &SystemdOptions) -> Result<ExitCode> {
    keep_mounts_private()?;
    let interrupt = Interrupt::watch()?;
    let base = Base::open(&options.cache, Release::Bookworm, &interrupt)?;
    scenario::service(&base, &options.program, &interrupt).map(|()| ExitCode::SUCCESS)
}

/// All of it. As root.
fn stage(options: &StageOptions) -> Result<ExitCode> {
    keep_mounts_private()?;
    let interrupt = Interrupt::watch()?;
    let base = Base::open(&options.cache, Release::Bookworm, &interrupt)?;
    let style = Style::of_stdout();
    let mut stage = Stage { options, base, interrupt, style, report: Vec::new() };
    let done = stage.play();
    println!();
    println!("{}", style.title("in a clean Debian 12"));
    for line in &stage.report {
        println!("  {line}");
    }
    done.map(|()| ExitCode::SUCCESS)
}

impl Stage<'_> {
    fn play(&mut self) -> Result<()> {
        if let Some(built) = &self.options.built {
            return self.services(built);
        }
        let rusts = &self.options.rust;
        for (nth, rust) in rusts.iter().enumerate() {
            self.commands(*rust, self.options.services && nth + 1 == rusts.len())
                .with_context(|| format!("with {rust}"))?;
        }
        Ok(())
    }

    /// README's commands.
    fn commands(&mut self, rust: Rust, and_services: bool) -> Result<()> {
        let debian = self.base.unpack("commands", &self.interrupt)?;
        let mut room = Room::new(debian.path());
        if rust == Rust::Rustup {
            Rustup::find()?.carry_into(debian.path(), &mut room)?;
        }
        let mut install = vec!["apt-get", "--quiet", "--yes", "install", "--no-install-recommends"];
        install.extend(rust.packages());
        self.step(&room, &["apt-get", "--quiet", "update"], "/")?;
        self.step(&room, &install, "/")?;
        let tree = debian.path().join(WORK_TREE.trim_start_matches('/'));
        let mut copy = Command::new("cp");
        copy.args(["-r", "--no-target-directory"]).arg(&self.options.clone).arg(&tree);
        run_to_end(&mut copy, &self.interrupt)?;

        let mut commands = vec![vec!["cargo", "xtask", "demo"]];
        if !self.options.demo {
            commands.push(vec!["cargo", "xtask", "test"]);
        }
        if let (Some(name), Some(test)) = (&self.options.test, commands.get_mut(1)) {
            test.extend(["--", name]);
        }
        for words in commands {
            let (before, started) = (Usage::of(debian.path()), Instant::now());
            let done = self.step(&room, &words, WORK_TREE);
            let took = Took { time: started.elapsed(), added: Usage::of(debian.path()).since(before) };
            let verdict = if done.is_ok() { self.style.good("ok") } else { self.style.bad("FAILED") };
            self.report.push(format!("{:<17} {verdict} with {rust}: {took}", words.join(" ")));
            done?;
        }
        if and_services {
            self.step(&room, &["cargo", "build", "--package", env!("CARGO_PKG_NAME")], WORK_TREE)?;
            self.services(&tree.join("target"))?;
        }
        Ok(())
    }

    /// Runs a command in `room` with this host's network, and says it.
    fn step(&self, room: &Room<'_>, words: &[&str], directory: &str) -> Result<()> {
        println!();
        println!("{} {}", self.style.faint("#"), self.style.title(&words.join(" ")));
        let status = room.status(words, directory, Network::Host, &self.interrupt)?;
        ensure!(status.success(), "{}: {status}", words.join(" "));
        Ok(())
    }

    /// The set-up beside a host's services, without an init and with systemd, and the documented unit.
    fn services(&mut self, built: &Path) -> Result<()> {
        let started = Instant::now();
        let roots = scenario::prepare(&self.base, built, &self.options.clone, &self.interrupt)?;
        self.report.push(format!("packages for two more ready after {}", said(started.elapsed())));
        for scenario in roots {
            println!();
            println!("{}", self.style.title(scenario.title()));
            let started = Instant::now();
            let done = scenario.play(&self.interrupt);
            let verdict = if done.is_ok() { self.style.good("ok") } else { self.style.bad("FAILED") };
            self.report.push(format!("{} {verdict} after {}", scenario.title(), said(started.elapsed())));
            done.with_context(|| scenario.title())?;
        }
        Ok(())
    }
}
