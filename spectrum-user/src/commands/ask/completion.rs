//! What a word of a command line may be, for shells: verbs and flags as the command line has them, and services, origins and
//! prefixes of the running instance. Fails at nothing: who is not answered in time, or may not ask, gets fewer words.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use clap::CommandFactory as _;
use clap_complete::engine::{self, ArgValueCompleter, CompletionCandidate};
use serde::de::DeserializeOwned;

use crate::cli::{Cli, CompleteArgs, InstanceArgs};
use crate::control::{self, BindingsQuery, Request};
use crate::model::visible;
use crate::registry::{control_sockets, run_dir};
use crate::view::{BindingView, View};
use spectrum_steering::host::{NamespaceId, listening_sockets, running_units};

/// Somebody waits for it between two keys.
const PATIENCE: Duration = Duration::from_secs(1);

/// More are no choice.
const MOST: usize = 200;

/// A kind of words that only a running instance, or the host, knows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Known {
    Instances,
    Namespaces,
    Origins,
    Prefixes,
    Services,
    Sockets,
    Units,
}

impl Known {
    /// The kind that an argument of a verb takes, by what the help calls its value.
    fn named(value_name: &str) -> Option<Self> {
        Some(match value_name {
            "ID" => Self::Instances,
            "NAME|PATH" => Self::Namespaces,
            "ORIGIN|ADDRESS" => Self::Origins,
            "PREFIX" | "PROTOCOL|PREFIX|PORTS" => Self::Prefixes,
            "SERVICE" | "SERVICE|PREFIX|-" => Self::Services,
            "ADDR:PORT" => Self::Sockets,
            "UNIT" => Self::Units,
            _ => return None,
        })
    }

    fn words(self, line: &Line) -> Vec<String> {
        match self {
            Self::Instances => line.instances(),
            Self::Namespaces => names_in("/run/netns"),
            Self::Origins => line.origins(),
            Self::Prefixes => line.prefixes(),
            Self::Services => line.services(),
            Self::Sockets => line.sockets(),
            Self::Units => running_units(),
        }
    }
}

/// Prints what the word may be that the cursor is on: one a line, with what it means after a tabulator.
pub(crate) fn complete(args: &CompleteArgs) -> anyhow::Result<()> {
    let mut lines = String::new();
    for candidate in candidates(args.words.clone(), args.index) {
        let value = candidate.get_value().to_string_lossy();
        let help = candidate.get_help().map(ToString::to_string).unwrap_or_default();
        let help = help.lines().next().unwrap_or_default();
        let _ = writeln!(lines, "{}\t{}", visible(&value), visible(help));
    }
    io::stdout().write_all(lines.as_bytes()).context("write the words")
}

fn candidates(mut words: Vec<OsString>, index: usize) -> Vec<CompletionCandidate> {
    // A shell has no word yet where the next one would begin.
    if words.len() <= index {
        words.resize(index + 1, OsString::new());
    }
    let line = Arc::new(Line::of(&words));
    let mut command = informed(Cli::command(), &line);
    let found = engine::complete(&mut command, words, index, None).unwrap_or_default();
    found.into_iter().filter(|candidate| !candidate.is_hide_set()).take(MOST).collect()
}

/// The command line, with each verb's arguments told what the instance has.
fn informed(command: clap::Command, line: &Arc<Line>) -> clap::Command {
    command.mut_subcommands(|verb| {
        let line = Arc::clone(line);
        verb.mut_args(move |argument| {
            let known = argument.get_value_names().and_then(|names| names.first());
            let Some(known) = known.and_then(|name| Known::named(name)) else { return argument };
            let line = Arc::clone(&line);
            argument.add(ArgValueCompleter::new(move |typed: &OsStr| {
                let typed = typed.to_string_lossy();
                let words = known.words(&line);
                let fitting = words.into_iter().filter(|word| word.starts_with(&*typed)).take(MOST);
                fitting.map(CompletionCandidate::new).collect::<Vec<_>>()
            }))
        })
    })
}

/// What a command line says already that decides what may follow.
#[derive(Debug, Default, Eq, PartialEq)]
struct Line {
    verb: Option<String>,
    netns: Option<String>,
    instance: Option<String>,
    /// The words that are no flags and no values of such, after the verb.
    operands: Vec<String>,
}

impl Line {
    fn of(words: &[OsString]) -> Self {
        let mut line = Self::default();
        let mut words = words.iter().skip(1).map(|word| word.to_string_lossy().into_owned());
        while let Some(word) = words.next() {
            let (flag, value) = match word.split_once('=') {
                Some((flag, value)) => (flag.to_owned(), Some(value.to_owned())),
                None => (word.clone(), None),
            };
            match &*flag {
                "--netns" => line.netns = value.or_else(|| words.next()),
                "--instance" => line.instance = value.or_else(|| words.next()),
                _ if flag.starts_with('-') => {}
                _ => line.operands.push(word),
            }
        }
        if !line.operands.is_empty() {
            line.verb = Some(line.operands.remove(0));
        }
        line
    }

    /// True if it is about sockets of other programs.
    fn is_about_sockets(&self) -> bool {
        matches!(self.verb.as_deref(), Some("register" | "unregister" | "weight"))
    }

    /// All, or those that the verb can be said of.
    fn services(&self) -> Vec<String> {
        let services = self.view().into_iter().flat_map(|view| view.services);
        let fitting = services.filter(|service| service.plan.registered || !self.is_about_sockets());
        fitting.map(|service| service.plan.name).collect()
    }

    /// Those that may be registered, or those of the service that are.
    fn sockets(&self) -> Vec<String> {
        let words: BTreeSet<String> = if self.verb.as_deref() == Some("register") {
            listening_sockets().into_iter().flatten().map(|socket| socket.address.to_string()).collect()
        } else {
            let mut services = self.view().into_iter().flat_map(|view| view.services);
            let service = services.find(|service| Some(&service.plan.name) == self.operands.first());
            let sockets = service.into_iter().flat_map(|service| service.sockets);
            sockets.filter_map(|one| Some(one.socket?.address.to_string())).collect()
        };
        words.into_iter().collect()
    }

    /// The instance as it is, or what is pinned.
    fn view(&self) -> Option<View> {
        match super::pinned(&self.args()) {
            Ok(Some(pinned)) => pinned.view().ok(),
            _ => self.ask(Request::Status),
        }
    }

    fn args(&self) -> InstanceArgs {
        InstanceArgs {
            netns: self.netns.clone(),
            instance: self.instance.as_ref().and_then(|name| name.parse().ok()),
            json: false,
        }
    }

    /// Those of the service that is named before it.
    fn origins(&self) -> Vec<String> {
        let view: Option<View> = self.ask(Request::Status);
        let mut services = view.into_iter().flat_map(|view| view.services);
        let service = services.find(|service| Some(&service.plan.name) == self.operands.first());
        let rows = service.into_iter().flat_map(|service| service.origins);
        let words: BTreeSet<String> =
            rows.flat_map(|row| [Some(row.plan.origin), row.address]).flatten().collect();
        words.into_iter().collect()
    }

    fn prefixes(&self) -> Vec<String> {
        let bindings: Option<Vec<BindingView>> = self.ask(Request::Bindings(BindingsQuery::default()));
        let mut prefixes: Vec<String> =
            bindings.into_iter().flatten().map(|binding| binding.prefix.to_string()).collect();
        prefixes.sort();
        prefixes.dedup();
        prefixes
    }

    fn instances(&self) -> Vec<String> {
        let namespace = match &self.netns {
            Some(name) => NamespaceId::named(name),
            None => NamespaceId::current(),
        };
        let sockets = namespace.ok().and_then(|id| control_sockets(&run_dir(), id.inode()).ok());
        sockets.into_iter().flatten().map(|socket| socket.id.to_string()).collect()
    }

    /// The instance's answer, if it comes in time.
    fn ask<T: DeserializeOwned + Send + 'static>(&self, request: Request) -> Option<T> {
        let args = self.args();
        let (answered, answer) = mpsc::channel();
        // Waiting for a place among those who ask has no limit of ours.
        thread::spawn(move || {
            let socket = super::find(&args).ok()?;
            answered.send(control::ask_within(&socket.path, &request, PATIENCE).ok()?).ok()
        });
        answer.recv_timeout(PATIENCE).ok()
    }
}

fn names_in(directory: &str) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completed(line: &str) -> Vec<String> {
        let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let index = words.len() - 1;
        let found = candidates(words, index);
        found.iter().map(|candidate| candidate.get_value().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn verbs_and_flags_are_those_of_the_command_line() {
        let verbs = completed("spectrum-user s");
        assert_eq!(verbs, ["status"]);
        assert!(completed("spectrum-user check --").contains(&"--resolve".to_owned()));
        assert_eq!(completed("spectrum-user --mod"), ["--mode"]);
        assert_eq!(completed("spectrum-user origin web 192.0.2.1 dr"), ["drain"]);
    }

    #[test]
    fn what_nobody_types_is_not_offered() {
        let offered = completed("spectrum-user ");
        for hidden in ["complete", "confined", "worker-process"] {
            assert!(!offered.contains(&hidden.to_owned()), "{offered:?}");
        }
    }

    #[test]
    fn what_stands_before_says_whom_to_ask_for_what() {
        let line = |text: &str| Line::of(&text.split(' ').map(OsString::from).collect::<Vec<_>>());
        let asked = line("spectrum-user origin --netns blue web --instance=3fa2c1 203.");
        assert_eq!(asked.netns.as_deref(), Some("blue"));
        assert_eq!(asked.instance.as_deref(), Some("3fa2c1"));
        assert_eq!(asked.operands, ["web", "203."]);
        assert!(!asked.is_about_sockets() && line("spectrum-user weight web 0 [").is_about_sockets());
    }

    #[test]
    fn every_verb_s_service_origin_and_prefix_is_known_by_its_name() {
        let command = Cli::command();
        let known = |verb: &str, value: &str| {
            let verb = command.find_subcommand(verb).unwrap();
            let names = verb.get_arguments().filter_map(|argument| argument.get_value_names());
            names.flatten().any(|name| *name == value) && Known::named(value).is_some()
        };
        assert!(known("origin", "SERVICE") && known("origin", "ORIGIN|ADDRESS"));
        assert!(known("bindings", "PROTOCOL|PREFIX|PORTS"));
        assert!(known("status", "ID") && known("status", "NAME|PATH"));
        for verb in ["register", "unregister", "weight"] {
            assert!(known(verb, "SERVICE") && known(verb, "ADDR:PORT"), "{verb}");
        }
        assert!(known("bind", "SERVICE") && known("unbind", "SERVICE") && known("register", "UNIT"));
    }

    #[test]
    fn a_socket_that_may_be_registered_is_offered() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let offered = completed("spectrum-user register web --pid 7 127.0.0.1:");
        assert!(offered.contains(&address), "{address} is not in {offered:?}");
    }
}
