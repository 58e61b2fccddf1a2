//! The judgement of a package: Debian's own, its pages against the program's help, its completions in every shell, its units,
//! its alerts, and that it is made again elsewhere with the same bytes. Installs it nowhere.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Command, ExitCode};

use anyhow::{Context as _, Result, bail, ensure};

use xtask::shell;
use xtask::workspace;

use crate::dashboard;
use crate::difference;
use crate::metric_names;
use crate::package;
use crate::place::Place;
use crate::program::Recipe;
use crate::tarball;
use crate::version::Version;

/// The most that systemd may say of what the unit leaves open, in tenths.
const MOST_EXPOSED: u32 = 25;

/// What is judged.
pub(crate) struct Subject<'a> {
    /// The package, or the tarball.
    pub(crate) package: &'a Path,
    /// Its version.
    pub(crate) version: &'a Version,
    /// The program that it was made of.
    pub(crate) program: &'a Path,
    /// The manner in which the program is built again, if it is.
    pub(crate) again: Option<Recipe>,
}

/// What makes a package, or a tarball, of a program in a place.
type Make = fn(&Version, &Path, &Place, &Path) -> Result<PathBuf>;

/// A judgement: its name, and what is said of a subject that is good.
type Judgement<'a> = (&'static str, &'a dyn Fn() -> Result<String>);

/// A directory that goes away with this value.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Scratch {
    fn new() -> Result<Self> {
        let scratch = Self(workspace::target_dir().join(format!("package-check.{}", process::id())));
        fs::create_dir_all(&scratch.0).with_context(|| format!("create {}", scratch.0.display()))?;
        Ok(scratch)
    }
}

/// Makes every judgement of a package.
pub(crate) fn check(subject: &Subject<'_>) -> Result<ExitCode> {
    let scratch = Scratch::new()?;
    let unpacked = scratch.0.join("root");
    shell::run(Command::new("dpkg-deb").arg("--extract").arg(subject.package).arg(&unpacked))?;
    let program = unpacked.join("usr/bin/spectrum-user");
    Ok(judge(&[
        ("lintian", &|| lintian(subject.package)),
        ("manual pages", &|| manual(&unpacked, &program)),
        ("completions", &|| completions(&unpacked, &program, &scratch.0)),
        ("units", &|| units(&unpacked)),
        ("metrics", &|| alerts(&unpacked)),
        ("dashboard", &|| dashboard(&unpacked, &scratch.0)),
        ("paths", &|| paths(&program)),
        ("packed again", &|| packed_again(subject, &scratch.0)),
        ("built again", &|| built_again(subject, &scratch.0)),
    ]))
}

/// Makes every judgement of a tarball that has the program linked statically.
pub(crate) fn check_static(subject: &Subject<'_>) -> Result<ExitCode> {
    let scratch = Scratch::new()?;
    Ok(judge(&[
        ("linked", &|| linked(subject.program)),
        ("paths", &|| paths(subject.program)),
        ("packed again", &|| packed_again(subject, &scratch.0)),
        ("built again", &|| built_again(subject, &scratch.0)),
    ]))
}

/// Makes all of them, also after one was bad.
fn judge(judgements: &[Judgement<'_>]) -> ExitCode {
    let mut failed = 0;
    for (name, judge) in judgements {
        match judge() {
            Ok(said) => println!("ok   {name:<14} {said}"),
            Err(error) => {
                failed += 1;
                println!("FAIL {name:<14} {error:#}");
            }
        }
    }
    println!("dist: {} passed, {failed} failed", judgements.len() - failed);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// No other file of the host is needed to run it, wherever it lies in memory.
fn linked(program: &Path) -> Result<String> {
    let headers =
        shell::stdout(Command::new("readelf").args(["--file-header", "--segments", "--wide"]).arg(program))?;
    ensure!(!headers.contains("INTERP"), "it is linked dynamically");
    ensure!(
        headers.contains("DYN (Position-Independent Executable file)"),
        "it is always at one place in memory"
    );
    let version = shell::stdout(Command::new(program).arg("--version"))?;
    Ok(format!("statically, and anywhere in memory; {}", version.trim()))
}

fn lintian(package: &Path) -> Result<String> {
    let mut lintian = Command::new("lintian");
    lintian
        .args(["--allow-root", "--no-cfg", "--fail-on", "error,warning", "--tag-display-limit", "0"])
        .arg(package);
    let output = shell::output(&mut lintian)?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{}{}", said, String::from_utf8_lossy(&output.stderr));
    Ok(format!("no errors, no warnings, {} hints", said.lines().count()))
}

/// The visible verbs of the program, as its help lists them.
fn verbs(program: &Path) -> Result<Vec<String>> {
    let help = shell::stdout(Command::new(program).arg("--help"))?;
    let listed =
        help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let verbs = listed.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let verbs = verbs.filter_map(|line| line.split_whitespace().next()).filter(|verb| *verb != "help");
    Ok(verbs.map(ToOwned::to_owned).collect())
}

fn manual(unpacked: &Path, program: &Path) -> Result<String> {
    let verbs = verbs(program)?;
    ensure!(!verbs.is_empty(), "the help lists no verbs");
    let mut flags_seen = 0;
    let pages = std::iter::once(None).chain(verbs.iter().map(Some));
    for verb in pages {
        let name = verb.map_or_else(|| "spectrum-user".to_owned(), |verb| format!("spectrum-user-{verb}"));
        let text = rendered(&unpacked.join(format!("usr/share/man/man1/{name}.1.gz")))?;
        let help = shell::stdout(Command::new(program).args(verb).arg("--help"))?;
        for flag in help.split([' ', '[', ']', '\n', '`']).filter(|word| is_flag(word)) {
            flags_seen += 1;
            ensure!(text.contains(flag), "{name}(1) says nothing of {flag}");
        }
    }
    rendered(&unpacked.join("usr/share/man/man5/spectrum.toml.5.gz"))?;
    Ok(format!("{} verbs and {flags_seen} flags as --help has them", verbs.len()))
}

fn is_flag(word: &str) -> bool {
    word.strip_prefix("--").is_some_and(|rest| {
        !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')
    })
}

/// A page as a reader sees it; what groff complains of is an error.
fn rendered(page: &Path) -> Result<String> {
    let mut man = Command::new("man");
    man.args(["--warnings=w", "--encoding=UTF-8", "--local-file"]).arg(page);
    man.envs([("MANWIDTH", "1000"), ("LC_ALL", "C.UTF-8"), ("MANROFFSEQ", ""), ("PAGER", "cat")]);
    let output = shell::output(&mut man)?;
    let complaints = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && complaints.is_empty(), "{}: {complaints}", page.display());
    // As a terminal shows it: without what is struck over.
    let text = String::from_utf8_lossy(&output.stdout).replace('\u{2010}', "-");
    let mut seen = String::new();
    for letter in text.chars() {
        if letter == '\u{8}' {
            seen.pop();
        } else {
            seen.push(letter);
        }
    }
    Ok(seen)
}

/// What each shell offers for a few lines, with the packaged program first on its path.
fn completions(unpacked: &Path, program: &Path, scratch: &Path) -> Result<String> {
    let bin = program.parent().context("find the program")?;
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    let at = |place: &str| unpacked.join(place).display().to_string();
    let bash = format!(
        "source /usr/share/bash-completion/bash_completion\nsource {}\n\
         ask() {{ COMP_LINE=\"$*\"; COMP_POINT=${{#COMP_LINE}}; COMP_WORDS=(\"$@\"); COMP_CWORD=$(( $# - 1 )); _spectrum_user; printf '%s\\n' \"${{COMPREPLY[@]}}\"; }}\n\
         ask spectrum-user sta; ask spectrum-user check --res; ask spectrum-user origin web 203.0.113.10 dr\n",
        at("usr/share/bash-completion/completions/spectrum-user")
    );
    let fish = format!(
        "source {}\nfor line in 'spectrum-user sta' 'spectrum-user check --res' 'spectrum-user origin web 203.0.113.10 dr'; complete --do-complete $line; end\n",
        at("usr/share/fish/vendor_completions.d/spectrum-user.fish")
    );
    // zsh completes only where somebody types: its words are shown in place of being offered.
    let zsh = format!(
        "_describe() {{ print -l -- ${{described%%:*}} }}\n\
         ask() {{ words=(\"$@\"); CURRENT=$#; source {} }}\n\
         ask spectrum-user sta; ask spectrum-user check --res; ask spectrum-user origin web 203.0.113.10 dr\n",
        at("usr/share/zsh/vendor-completions/_spectrum-user")
    );
    for (shell, script) in [("bash", &bash), ("fish", &fish), ("zsh", &zsh)] {
        let file = scratch.join(format!("ask.{shell}"));
        fs::write(&file, script).context("write a script")?;
        let mut command = Command::new(shell);
        let said = shell::stdout(command.arg(&file).env("PATH", &path).env("HOME", scratch))?;
        let words: Vec<&str> = said.lines().filter_map(|line| line.split_whitespace().next()).collect();
        ensure!(words == ["status", "--resolve", "drain"], "{shell} offers {words:?}");
    }
    Ok("bash, fish and zsh offer verbs, flags and values".to_owned())
}

fn units(unpacked: &Path) -> Result<String> {
    let mut said = Vec::new();
    for name in ["spectrum.service", "spectrum@.service"] {
        let found =
            ["usr/lib/systemd/system", "lib/systemd/system"].map(|place| unpacked.join(place).join(name));
        let unit = found.iter().find(|unit| unit.is_file()).with_context(|| format!("find {name}"))?;
        let mut analyze = Command::new("systemd-analyze");
        let text = shell::stdout(analyze.args(["security", "--no-pager", "--offline=true"]).arg(unit))?;
        let level = text.lines().rev().find_map(|line| line.split("exposure level for ").nth(1));
        let level = level.and_then(|rest| rest.split(": ").nth(1)?.split(' ').next());
        let level = level.with_context(|| format!("read what systemd-analyze says: {text}"))?;
        let tenths: u32 = level.replace('.', "").parse().context("read the exposure")?;
        ensure!(tenths <= MOST_EXPOSED, "{name} is exposed by {level}\n{text}");
        said.push(format!("{name} {level}"));
    }
    Ok(format!("exposure of {}", said.join(", of ")))
}

fn alerts(unpacked: &Path) -> Result<String> {
    let directory = unpacked.join("usr/share/spectrum/prometheus");
    let mut promtool = Command::new("promtool");
    let output =
        shell::output(promtool.current_dir(&directory).args(["test", "rules", "spectrum.rules.test.yml"]))?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read = |name: &str| fs::read_to_string(directory.join(name)).with_context(|| format!("read {name}"));
    let (rules, tests) = (read("spectrum.rules.yml")?, read("spectrum.rules.test.yml")?);
    let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    for alert in &alerts {
        ensure!(tests.contains(&format!("alertname: {alert}\n")), "no test fires {alert}");
    }
    let alerts = alerts.len();
    let documented = metric_names::documented(&operations(unpacked)?);
    let unknown = metric_names::unknown(&[read_dashboard(unpacked)?, rules].concat(), &documented);
    ensure!(unknown.is_empty(), "metrics that there are not: {unknown:?}");
    Ok(format!("promtool fires each of {alerts}, and every metric exists"))
}

fn operations(unpacked: &Path) -> Result<String> {
    let page = unpacked.join("usr/share/doc/spectrum/operations.md.gz");
    shell::stdout(Command::new("zcat").arg("--force").arg(page))
}

fn read_dashboard(unpacked: &Path) -> Result<String> {
    let dashboard = unpacked.join("usr/share/spectrum/grafana/spectrum.json");
    fs::read_to_string(&dashboard).with_context(|| format!("read {}", dashboard.display()))
}

/// Has Prometheus evaluate what the dashboard shows.
fn dashboard(unpacked: &Path, scratch: &Path) -> Result<String> {
    let labels = dashboard::labels(&operations(unpacked)?);
    let queries = dashboard::queries(&read_dashboard(unpacked)?)?;
    let lacking: Vec<String> = queries.iter().flat_map(|query| query.lacking(&labels)).collect();
    ensure!(lacking.is_empty(), "labels that there are not: {}", lacking.join(", "));
    let file = scratch.join("dashboard.test.yml");
    fs::write(&file, dashboard::test(&queries, &labels)).context("write what promtool is asked")?;
    let output = shell::output(Command::new("promtool").args(["test", "rules"]).arg(&file))?;
    let said = [output.stdout, output.stderr].concat();
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&said));
    Ok(format!("promtool evaluates each of {} expressions, with the labels that they show", queries.len()))
}

/// A program that tells where it was built is another one elsewhere.
fn paths(program: &Path) -> Result<String> {
    let bytes = fs::read(program).context("read the program")?;
    let home = std::env::home_dir().unwrap_or_default().join(".cargo");
    for place in [workspace::root().to_path_buf(), home] {
        let wanted = format!("{}/", place.display()).into_bytes();
        if let Some(at) = bytes.windows(wanted.len()).position(|window| window == wanted) {
            let rest: Vec<u8> =
                bytes[at..].iter().copied().take(120).take_while(u8::is_ascii_graphic).collect();
            bail!("the program tells of {}", String::from_utf8_lossy(&rest));
        }
    }
    Ok("nothing of where it was built".to_owned())
}

/// Packs the same program by a shell whose files nobody else may read.
fn packed_again(subject: &Subject<'_>, scratch: &Path) -> Result<String> {
    let scratch = scratch.join("packed");
    same(subject, subject.program, &Place::here()?, &Place::beside(&scratch)?, &scratch)
}

/// Builds the same commit in another place.
fn built_again(subject: &Subject<'_>, scratch: &Path) -> Result<String> {
    let Some(recipe) = subject.again else {
        return Ok("left out, since --built and --program take what is there".to_owned());
    };
    let scratch = scratch.join("elsewhere");
    let place = Place::elsewhere(&scratch)?;
    let program = recipe.build(&place)?;
    same(subject, &program, &Place::here()?, &place, &scratch)
}

/// Makes package and tarball of `program` in the place `other`, and compares them with those that `here` has of the subject.
fn same(
    subject: &Subject<'_>,
    program: &Path,
    here: &Place,
    other: &Place,
    scratch: &Path,
) -> Result<String> {
    let (version, mut said) = (subject.version, Vec::new());
    for (what, make, ending) in [("package", package::make as Make, "deb"), ("tarball", tarball::make, "gz")]
    {
        let first: PathBuf = if subject.package.extension().is_some_and(|extension| extension == ending) {
            subject.package.to_path_buf()
        } else {
            make(version, subject.program, here, &scratch.join("first"))?
        };
        let second = make(version, program, other, &scratch.join("second"))?;
        let differences = difference::between(&first, &second, &scratch.join("unpacked"))?;
        ensure!(differences.is_empty(), "the {what} is another one:\n     {}", differences.join("\n     "));
        let length = fs::metadata(&first).with_context(|| format!("look at {}", first.display()))?.len();
        said.push(format!("{length} bytes of the {what}"));
    }
    Ok(format!("the same {} in {}", said.join(" and "), other.root.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_is_a_word_with_two_dashes() {
        assert!(is_flag("--no-repair") && !is_flag("--") && !is_flag("-h") && !is_flag("--FLAG"));
    }
}
