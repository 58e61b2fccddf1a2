//! `top-sources`: whom services turn away most. Counts nobody.

use std::io::{self, Write};

use super::{OP, ask};
use crate::cli::TopSourcesArgs;
use crate::commands::answer::print;
use crate::commands::columns::Columns;
use crate::control::{Request, TopSourcesQuery};
use crate::observe::{ServiceSources, SourceCount, TopSourcesAnswer};

/// Prints whom a service turned away, or each.
pub(in crate::commands) fn top_sources(args: &TopSourcesArgs) -> anyhow::Result<()> {
    let query = TopSourcesQuery { service: args.service.clone() };
    let answer: TopSourcesAnswer = ask(&args.instance, &Request::TopSources(query))?;
    print(OP, &answer, args.instance.json, |out| write(&answer, out))
}

fn write(answer: &TopSourcesAnswer, out: &mut dyn Write) -> io::Result<()> {
    let TopSourcesAnswer { seconds, services, unlisted } = answer;
    if services.is_empty() {
        writeln!(out, "nobody was turned away in the last {seconds} s")?;
    }
    for ServiceSources { service, packets, sources, networks } in services {
        writeln!(out, "{service}: {packets} packets turned away in the last {seconds} s")?;
        if sources.is_empty() {
            writeln!(out, "  no source stands out: they are many, and may be forged")?;
        }
        let mut columns = Columns::of(["SOURCE", "PACKETS", "SURELY", "REASON", "DIALLED"]);
        let mut row = |count: &SourceCount| {
            let SourceCount { source, packets, over, reason, dialled } = count;
            let surely = packets.saturating_sub(*over);
            columns.row([source, &packets.to_string(), &surely.to_string(), reason, &dialled.to_string()]);
        };
        sources.iter().for_each(&mut row);
        // A network of one source says no more.
        let is_wider =
            |network: &&SourceCount| sources.iter().all(|source| source.packets != network.packets);
        networks.iter().filter(is_wider).for_each(&mut row);
        if !sources.is_empty() || !networks.is_empty() {
            columns.write(out, "  ")?;
        }
    }
    if *unlisted > 0 {
        writeln!(out, "and {unlisted} packets to more services than are told apart")?;
    }
    Ok(())
}
