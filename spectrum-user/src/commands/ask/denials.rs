//! Clients denied at run time: hands on what is typed or read, and prints what holds. Judges nobody.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, Write};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use super::{OP, ask};
use crate::cli::{AllowArgs, DeniedArgs, DenyArgs, InstanceArgs};
use crate::commands::answer::print;
use crate::commands::columns::Columns;
use crate::control::{DenyAnswer, DenyQuery, Request};
use crate::model::{DenyWord, Prefix, visible};
use crate::view::{DeniedView, View};

/// No request names more prefixes: it has a length that the instance reads.
const AT_ONCE: usize = 1_000;

/// Lines that come within this time go with what came before.
const TOGETHER: Duration = Duration::from_millis(5);

/// So many lines that make no sense are told of one by one.
const TOLD: usize = 10;

/// How exact the packets of a prefix are.
const SAMPLED: &str = "PACKETS are sampled: exact while a CPU turns away one in a tick (1 to 10 ms) at most, estimates in a flood";

/// The words typed or read, word by word.
#[derive(Debug)]
struct Said<'a> {
    word: DenyWord,
    service: Option<String>,
    time: Option<Duration>,
    instance: &'a InstanceArgs,
    /// The sum of all answers.
    answer: DenyAnswer,
}

/// Has what is typed denied.
pub(crate) fn deny(args: &DenyArgs) -> anyhow::Result<()> {
    say(DenyWord::Deny, &args.words, args.time, &args.instance)
}

/// Has what is typed denied no more, or let in.
pub(crate) fn allow(args: &AllowArgs) -> anyhow::Result<()> {
    let word = match (args.except, args.undo) {
        (true, _) => DenyWord::Except,
        (_, true) => DenyWord::Undo,
        _ => DenyWord::Allow,
    };
    say(word, &args.words, args.time, &args.instance)
}

fn say(
    word: DenyWord,
    words: &[String],
    time: Option<Duration>,
    instance: &InstanceArgs,
) -> anyhow::Result<()> {
    // No service is called like an address, but for one that is called like a number.
    let is_service =
        |first: &String| *first != "-" && !first.contains([':', '/']) && first.parse::<Prefix>().is_err();
    let (service, prefixes) = match words.split_first() {
        Some((first, rest)) if is_service(first) && looks_like_name(first) => (Some(first.clone()), rest),
        _ => (None, words),
    };
    if prefixes.is_empty() {
        let name = service.unwrap_or_default();
        bail!(
            "{word}: which clients of {name:?}? Say prefixes, or - to read them, as in `{word} {name} 192.0.2.0/24`"
        );
    }
    let mut said = Said { word, service, time, instance, answer: DenyAnswer::default() };
    let (read, typed): (Vec<&String>, Vec<&String>) = prefixes.iter().partition(|prefix| *prefix == "-");
    let parsed: Vec<Prefix> = typed
        .iter()
        .map(|typed| typed.parse().with_context(|| format!("{word} {typed:?}")))
        .collect::<anyhow::Result<_>>()?;
    let typed: Vec<String> = parsed.iter().map(ToString::to_string).collect();
    for some in typed.chunks(AT_ONCE) {
        said.send(some.to_vec())?;
    }
    let mistakes = if read.is_empty() { 0 } else { said.read()? };
    print(OP, &said.answer, instance.json, |out| said.write(out))?;
    if mistakes > 0 {
        bail!("{mistakes} lines of standard input are no prefixes; the others are heeded");
    }
    Ok(())
}

/// True of what may be a service: addresses that are written wrongly are told as such.
fn looks_like_name(word: &str) -> bool {
    word.contains(|letter: char| letter.is_ascii_alphabetic())
}

impl Said<'_> {
    /// Reads prefixes from standard input until its end; the number of lines that are none.
    fn read(&mut self) -> anyhow::Result<usize> {
        let (sender, lines) = mpsc::sync_channel(AT_ONCE);
        thread::spawn(move || {
            for line in io::stdin().lock().lines() {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut mistakes = 0;
        let mut number = 0_usize;
        while let Some(some) = together(&lines) {
            let mut prefixes = Vec::with_capacity(some.len());
            for line in some {
                let line = line.context("read standard input")?;
                number += 1;
                let typed = line.split(['#', ';']).next().unwrap_or_default().trim();
                if typed.is_empty() {
                    continue;
                }
                match typed.parse::<Prefix>() {
                    Ok(prefix) => prefixes.push(prefix.to_string()),
                    Err(error) => {
                        mistakes += 1;
                        if mistakes <= TOLD {
                            let short: String = typed.chars().take(60).collect();
                            eprintln_visible(&format!("standard input:{number}: {short:?}: {error}"));
                        }
                    }
                }
            }
            if !prefixes.is_empty() {
                self.send(prefixes)?;
            }
        }
        Ok(mistakes)
    }

    fn send(&mut self, prefixes: Vec<String>) -> anyhow::Result<()> {
        let query = DenyQuery {
            word: self.word,
            service: self.service.clone(),
            prefixes,
            for_ms: self.time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
        };
        let answer: DenyAnswer = ask(self.instance, &Request::Deny(query))?;
        self.answer = DenyAnswer {
            changed: self.answer.changed + answer.changed,
            unchanged: self.answer.unchanged + answer.unchanged,
            ..answer
        };
        Ok(())
    }

    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let DenyAnswer { changed, unchanged, denied, excepted, unsaved } = &self.answer;
        let what = match self.word {
            DenyWord::Deny => "denied",
            DenyWord::Allow => "denied no more",
            DenyWord::Except => "excepted",
            DenyWord::Undo => "excepted no more",
        };
        let before = match (self.word, *unchanged) {
            (_, 0) => String::new(),
            (DenyWord::Deny | DenyWord::Except, count) => format!(", {count} were so before"),
            (DenyWord::Allow | DenyWord::Undo, count) => format!(", {count} were not"),
        };
        writeln!(
            out,
            "{changed} {what}{before}; at run time {denied} denied and {excepted} excepted in all"
        )?;
        unsaved.iter().try_for_each(|unsaved| writeln!(out, "{unsaved}"))
    }
}

fn eprintln_visible(line: &str) {
    // Whoever reads no errors hears of the number at the end.
    let _ = writeln!(io::stderr(), "{}", visible(line));
}

/// The next lines, as many as come together; `None` at the end.
fn together(lines: &Receiver<io::Result<String>>) -> Option<Vec<io::Result<String>>> {
    let mut some = vec![lines.recv().ok()?];
    while some.len() < AT_ONCE {
        match lines.recv_timeout(TOGETHER) {
            Ok(line) => some.push(line),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
        }
    }
    Some(some)
}

/// The words that hold at run time, and how often denied clients came.
#[derive(Debug, Deserialize, Serialize)]
struct Denied {
    /// The words that hold of prefixes.
    entries: Vec<DeniedView>,
    /// Packets that were turned away, of each service by the reason; those of the configuration's policies are among them.
    packets: BTreeMap<String, BTreeMap<String, u64>>,
    /// The reason for which some of it may be forgotten.
    #[serde(skip_serializing_if = "Option::is_none")]
    unsaved: Option<String>,
}

/// Prints what holds at run time.
pub(crate) fn denied(args: &DeniedArgs) -> anyhow::Result<()> {
    let DeniedArgs { service, instance } = args;
    let is_meant = |name: &str| service.as_ref().is_none_or(|service| service == name);
    let mut entries: Vec<DeniedView> = ask(instance, &Request::Denied)?;
    entries.retain(|entry| entry.service.as_deref().is_none_or(is_meant));
    let view: View = ask(instance, &Request::Status)?;
    if let Some(service) = service
        && !view.services.iter().any(|one| one.plan.name == *service)
        && !entries.iter().any(|entry| entry.service.is_some())
    {
        bail!("denied: there is no service {service:?}");
    }
    let mut packets: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
    for destination in &view.destinations {
        let name = &destination.plan.service;
        for (reason, count) in destination.denied.iter().filter(|_| is_meant(name)) {
            *packets.entry(name.clone()).or_default().entry(reason.clone()).or_default() += count;
        }
    }
    let denied = Denied { entries, packets, unsaved: view.run_time.unsaved };
    print(OP, &denied, instance.json, |out| write(&denied, out))
}

/// The words that hold in the running instance that is meant; none where there is none, or it does not answer.
pub(in crate::commands) fn denied_by_running(instance: &InstanceArgs) -> Vec<DeniedView> {
    ask(instance, &Request::Denied).unwrap_or_default()
}

fn write(denied: &Denied, out: &mut dyn Write) -> io::Result<()> {
    let Denied { entries, packets, unsaved } = denied;
    if entries.is_empty() {
        writeln!(out, "nobody is denied at run time")?;
    } else {
        let mut columns = Columns::of(["WORD", "PREFIX", "SERVICE", "PACKETS", "LEFT", "SINCE", "BY"]);
        for DeniedView { service, prefix, word, until: _, left_ms, since, uid, packets } in entries {
            let left = left_ms.map_or_else(
                || "-".to_owned(),
                |left| humantime::format_duration(Duration::from_secs(left.div_ceil(1_000))).to_string(),
            );
            let by = uid.map_or_else(|| "-".to_owned(), |uid| format!("user {uid}"));
            let service = service.as_deref().unwrap_or("all");
            let packets = packets.map_or_else(|| "-".to_owned(), |packets| packets.to_string());
            columns.row([word, prefix, service, &packets, &left, since, &by]);
        }
        columns.write(out, "")?;
        if entries.iter().any(|entry| entry.packets.is_some()) {
            writeln!(out, "{SAMPLED}")?;
        }
    }
    for (service, reasons) in packets {
        let reasons = reasons.iter().filter(|(_, count)| **count > 0);
        let reasons: Vec<String> = reasons.map(|(reason, count)| format!("{count} {reason}")).collect();
        if !reasons.is_empty() {
            writeln!(out, "turned away from {service}, by the configuration too: {}", reasons.join(", "))?;
        }
    }
    unsaved.iter().try_for_each(|unsaved| writeln!(out, "{unsaved}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_is_a_table_and_counts_follow() {
        let entry = |service: Option<&str>, prefix: &str, word: &str, left_ms| DeniedView {
            service: service.map(str::to_owned),
            prefix: prefix.to_owned(),
            word: word.to_owned(),
            until: None,
            left_ms,
            since: "2026-01-01T00:00:00Z".to_owned(),
            uid: Some(0),
            packets: (word == "deny").then_some(12),
        };
        let denied = Denied {
            entries: vec![
                entry(None, "192.0.2.0/24", "deny", Some(59_001)),
                entry(Some("games"), "2001:db8::7/128", "except", None),
            ],
            packets: [("games".to_owned(), [("denied".to_owned(), 7), ("rate".to_owned(), 0)].into())].into(),
            unsaved: Some("the disk is full".to_owned()),
        };
        let mut written = Vec::new();
        write(&denied, &mut written).unwrap();
        assert_eq!(
            String::from_utf8(written).unwrap(),
            "WORD    PREFIX           SERVICE  PACKETS  LEFT  SINCE                 BY\n\
             deny    192.0.2.0/24     all           12  1m    2026-01-01T00:00:00Z  user 0\n\
             except  2001:db8::7/128  games          -  -     2026-01-01T00:00:00Z  user 0\n\
             PACKETS are sampled: exact while a CPU turns away one in a tick (1 to 10 ms) at most, estimates in a flood\n\
             turned away from games, by the configuration too: 7 denied\n\
             the disk is full\n"
        );
        let mut written = Vec::new();
        let nobody = Denied { entries: Vec::new(), packets: BTreeMap::new(), unsaved: None };
        write(&nobody, &mut written).unwrap();
        assert_eq!(String::from_utf8(written).unwrap(), "nobody is denied at run time\n");
    }

    #[test]
    fn lines_that_come_together_go_together() {
        let (sender, lines) = mpsc::channel();
        for number in 0..AT_ONCE + 7 {
            sender.send(Ok(number.to_string())).unwrap();
        }
        drop(sender);
        assert_eq!(together(&lines).map(|some| some.len()), Some(AT_ONCE));
        assert_eq!(together(&lines).map(|some| some.len()), Some(7));
        assert!(together(&lines).is_none());
    }
}
