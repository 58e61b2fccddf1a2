//! The results as a table for people, for README, or for programs. Judges nothing.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::guest::Said;
use super::kernel::{Compiled, Kernel, Source};
use super::outcome::Outcome;
use xtask::shell;
use xtask::workspace;

/// Between these lines of README stands the table.
const BEGIN: &str = "<!-- written by `cargo xtask vmtest --markdown` -->";
const END: &str = "<!-- until here -->";

/// The firewalls whose rules carry TPROXY, as tests name what they need.
const FIREWALLS: [&str; 3] = ["nftables", "iptables-nft", "iptables-legacy"];

/// The result of one kernel.
#[derive(Debug)]
pub(super) struct Report {
    /// Which.
    pub(super) kernel: &'static Kernel,
    /// The words of its guest.
    pub(super) said: Said,
    /// The outcome of that.
    pub(super) outcome: Outcome,
}

impl Report {
    /// A line for people, with what went wrong on lines of its own.
    pub(super) fn print(&self) {
        let outcome = &self.outcome;
        println!(
            "{:4} {:12} {:28} boot {:4.1} s, {:4.0} s in all, {} passed, {} failed, {} not in this turn{}",
            if outcome.is_good() { "ok" } else { "FAIL" },
            self.kernel.name,
            self.release(),
            self.said.boot.as_secs_f64(),
            self.said.took.as_secs_f64(),
            outcome.passed,
            outcome.failed.len(),
            outcome.not_its_turn,
            self.skipped(),
        );
        println!("     auto takes {}: {}", self.recorded("path", "mode"), self.reason());
        if let Some(milliseconds) = outcome.record("verifier", "milliseconds") {
            let instructions = self.instructions().unwrap_or_else(|| "an untold number of".to_owned());
            println!(
                "     the verifier followed {instructions} instructions; the program loads in {milliseconds} ms"
            );
        }
        for line in &outcome.details {
            println!("     | {line}");
        }
        for wrong in outcome.wrong.iter().chain(&outcome.failed) {
            println!("     wrong: {wrong}");
        }
    }

    /// All there is to know, for programs.
    pub(super) fn json(&self) -> Value {
        json!({
            "kernel": self.kernel.name,
            "release": self.said.release,
            "is_good": self.outcome.is_good(),
            "boot_seconds": self.said.boot.as_secs_f64(),
            "seconds": self.said.took.as_secs_f64(),
            "path": self.outcome.record("path", "mode"),
            "reason": self.outcome.record("path", "reason"),
            "instructions": self.instructions().and_then(|text| text.parse::<u64>().ok()),
            "load_milliseconds": self.outcome.record("verifier", "milliseconds").and_then(|text| text.parse::<f64>().ok()),
            "passed": self.outcome.passed,
            "not_its_turn": self.outcome.not_its_turn,
            "skipped": self.outcome.skipped,
            "failed": self.outcome.failed,
            "wrong": self.outcome.wrong,
        })
    }

    fn release(&self) -> &str {
        self.said.release.as_deref().unwrap_or("-")
    }

    fn recorded(&self, subject: &str, name: &str) -> String {
        self.outcome.record(subject, name).unwrap_or_else(|| "-".to_owned())
    }

    /// The number of instructions that the verifier followed, where it tells: from Linux 5.16 on.
    fn instructions(&self) -> Option<String> {
        self.outcome.record("verifier", "instructions").filter(|count| count != "0")
    }

    fn reason(&self) -> String {
        self.outcome.record("path", "reason").unwrap_or_else(|| "the kernel takes the program".to_owned())
    }

    fn skipped(&self) -> String {
        self.outcome.skipped.iter().fold(String::new(), |mut text, (need, count)| {
            let _ = write!(text, ", {count} skipped for want of {need}");
            text
        })
    }

    fn row(&self) -> String {
        let lacks = &self.outcome.skipped;
        let firewalls: Vec<&str> =
            FIREWALLS.into_iter().filter(|firewall| !lacks.contains_key(*firewall)).collect();
        let without = match (self.kernel.source, self.kernel.parameters) {
            (Source::Compiled(Compiled::NoBpf), _) => ", without bpf(2)".to_owned(),
            (Source::Compiled(Compiled::NoSkLookup), _) => ", with bpf(2) but not sk_lookup".to_owned(),
            (Source::Debian(_), "") => {
                let without = |call| format!(", every process without {call}(2)");
                self.kernel.refuses.map(without).unwrap_or_default()
            }
            (Source::Debian(_), parameters) => format!(", booted with `{parameters}`"),
        };
        format!(
            "| {}{without} | {} | {} | {} | {} | {} | {} |\n",
            self.release(),
            self.recorded("path", "mode"),
            firewalls.join(", "),
            self.outcome.passed,
            self.instructions().unwrap_or_else(|| "-".to_owned()),
            self.recorded("verifier", "milliseconds"),
            format_args!("{:.1}", self.said.boot.as_secs_f64()),
        )
    }
}

/// The table of README.
pub(super) fn markdown(reports: &[Report]) -> Result<String> {
    let date = shell::stdout(Command::new("date").args(["--utc", "+%F"]))?;
    let mut text = format!(
        "Run on {} by `cargo xtask vmtest`, each kernel in an emulated machine (x86-64, Debian 12):\n\n",
        date.trim()
    );
    text.push_str(
        "| kernel | auto takes | TPROXY by | tests passed | instructions verified | load, ms | boot, s |\n",
    );
    text.push_str("|---|---|---|---|---|---|---|\n");
    for report in reports {
        text.push_str(&report.row());
    }
    Ok(text)
}

/// Puts `table` where README has one.
pub(super) fn write_readme(table: &str) -> Result<()> {
    let readme = workspace::root().join("README.md");
    let text = fs::read_to_string(&readme).context("read README.md")?;
    let text = replaced(&text, table).with_context(|| format!("find {BEGIN} and {END} in README.md"))?;
    fs::write(&readme, text).context("write README.md")
}

fn replaced(text: &str, table: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{table}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stands_between_the_marks_is_replaced() {
        let text = format!("a\n{BEGIN}\nold\n{END}\nb\n");
        assert_eq!(replaced(&text, "new\n").unwrap(), format!("a\n{BEGIN}\nnew\n{END}\nb\n"));
        assert_eq!(replaced("nothing", "new"), None);
    }

    #[test]
    fn readme_has_the_marks() {
        let readme = fs::read_to_string(workspace::root().join("README.md")).unwrap();
        assert!(replaced(&readme, "").is_some());
    }
}
