//! A rule of nftables as people write it, made from what nft says of it in JSON. What it does not know is three dots: the
//! text is for reading, beside the handle.

use serde_json::Value;

/// So long a text is cut.
const LONGEST: usize = 160;

/// The text of `rule`, with its handle, and its comment.
pub(super) fn of(rule: &Value) -> String {
    let statements: Vec<String> = rule["expr"].as_array().into_iter().flatten().map(statement).collect();
    let mut text = statements.join(" ");
    if text.len() > LONGEST {
        text = text.chars().take(LONGEST).collect::<String>() + " …";
    }
    if let Some(comment) = rule["comment"].as_str() {
        text = text + " comment " + &comment.escape_debug().collect::<String>();
    }
    text + " # handle " + &rule["handle"].to_string()
}

fn statement(statement: &Value) -> String {
    let Some((kind, value)) = statement.as_object().and_then(|fields| fields.iter().next()) else {
        return DOTS.to_owned();
    };
    match kind.as_str() {
        "match" => {
            let op = match value["op"].as_str() {
                Some("==" | "in") | None => String::new(),
                Some(op) => format!("{op} "),
            };
            format!("{} {op}{}", expression(&value["left"]), expression(&value["right"]))
        }
        "jump" | "goto" => format!("{kind} {}", value["target"].as_str().unwrap_or(DOTS)),
        "vmap" => format!("{} vmap {}", expression(&value["key"]), expression(&value["data"])),
        "dnat" | "snat" => {
            let family = value["family"].as_str().map_or(String::new(), |family| format!("{family} "));
            let port = value.get("port").map_or(String::new(), |port| format!(":{}", expression(port)));
            format!("{} {family}to {}{port}", kind, expression(&value["addr"]))
        }
        "redirect" | "masquerade" => {
            let port = value.get("port").map_or(String::new(), |port| format!(" to :{}", expression(port)));
            kind.clone() + &port
        }
        "xt" => value["name"].as_str().unwrap_or(DOTS).to_owned(),
        // Those that say all by their name, and those that say more than matters here.
        _ => kind.clone(),
    }
}

fn expression(value: &Value) -> String {
    let listed = |of: &Value, between: &str| -> String {
        let parts: Vec<String> = of.as_array().into_iter().flatten().map(expression).collect();
        parts.join(between)
    };
    if let Some(text) = value.as_str() {
        return text.to_owned();
    }
    if value.is_number() {
        return value.to_string();
    }
    if value.is_array() {
        return listed(value, ",");
    }
    let Some((kind, of)) = value.as_object().and_then(|fields| fields.iter().next()) else {
        return DOTS.to_owned();
    };
    let text = |field: &str| of[field].as_str().unwrap_or(DOTS).to_owned();
    match kind.as_str() {
        "payload" => format!("{} {}", text("protocol"), text("field")),
        "meta" if ["iifname", "oifname", "iif", "oif", "mark"].contains(&text("key").as_str()) => text("key"),
        "meta" => format!("meta {}", text("key")),
        "ct" => format!("ct {}", text("key")),
        "fib" => format!("fib {} {}", expression(&of["flags"]), text("result")),
        "prefix" => format!("{}/{}", text("addr"), of["len"]),
        "range" => listed(of, "-"),
        "set" => format!("{{ {} }}", listed(of, ", ")),
        "concat" => listed(of, " . "),
        _ => DOTS.to_owned(),
    }
}

const DOTS: &str = "…";
