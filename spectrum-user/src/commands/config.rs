//! `config`: what is in force, key by key and said by whom, and the schema of the file for editors. Changes nothing.

use std::io;

use super::answer::print;
use super::ask::running_configuration;
use crate::cli::ConfigArgs;
use crate::config::{Config, Planned, schema};

/// Prints one or the other.
pub(super) fn config(args: &ConfigArgs) -> anyhow::Result<()> {
    if args.schema {
        let schema = schema();
        let text = |out: &mut dyn io::Write| {
            let text = serde_json::to_string_pretty(&schema)?;
            writeln!(out, "{text}")
        };
        return print("write the schema", &schema, args.instance.json, text);
    }
    let keys = match &args.config {
        Some(path) => {
            let Planned { config, .. } = Config::load_whole(path)?;
            config.keys
        }
        None => running_configuration(&args.instance)?.keys,
    };
    let keys = keys.filled();
    print("write the configuration", &keys, args.instance.json, |out| {
        out.write_all(keys.to_toml().as_bytes())
    })
}
