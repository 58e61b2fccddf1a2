//! The JSON schema of a configuration file, for editors: made from the list of keys. Judges no file.

use serde_json::{Map, Value, json};

use super::key_list::{KEYS, KeyForm};

/// The schema, of draft 7, which editors of TOML understand.
#[must_use]
pub fn schema() -> Value {
    let mut file = table("");
    if let Value::Object(file) = &mut file {
        file.insert("$schema".to_owned(), json!("http://json-schema.org/draft-07/schema#"));
        file.insert("title".to_owned(), json!("The configuration of spectrum-user"));
    }
    file
}

fn table(name: &str) -> Value {
    let keys = KEYS.iter().filter(|spec| spec.table == name);
    let properties: Map<String, Value> = keys
        .map(|spec| {
            let mut form = form(spec.form);
            if let Value::Object(form) = &mut form {
                form.insert("description".to_owned(), json!(spec.says));
                if let Some(default) = spec.default.and_then(|default| serde_json::from_str(default).ok()) {
                    form.insert("default".to_owned(), default);
                }
            }
            (spec.key.to_owned(), form)
        })
        .collect();
    json!({ "type": "object", "additionalProperties": false, "properties": properties })
}

fn form(form: KeyForm) -> Value {
    const TIME: &str = "^ *[0-9]+ *[a-zA-Zµ]+( *[0-9]+ *[a-zA-Zµ]+)* *$";
    let time = || json!({ "type": "string", "pattern": TIME });
    let text = || json!({ "type": "string" });
    let either = |one: Value, other: Value| json!({ "anyOf": [one, other] });
    let list = |element: &Value| json!({ "type": "array", "items": element });
    let none = || json!({ "const": "none" });
    match form {
        KeyForm::Truth => json!({ "type": "boolean" }),
        KeyForm::Number(least, most) => json!({ "type": "integer", "minimum": least, "maximum": most }),
        KeyForm::Text => text(),
        KeyForm::Texts => either(text(), list(&text())),
        KeyForm::Word(words) => json!({ "enum": words }),
        KeyForm::Words(words, more) => {
            let mut all: Vec<&str> = words.iter().chain(more).copied().collect();
            all.sort_unstable();
            all.dedup();
            json!({ "enum": all })
        }
        KeyForm::Time => time(),
        KeyForm::TimeOrNone => either(time(), none()),
        KeyForm::Table(name) => table(name),
        KeyForm::TableOrNone(name) => either(table(name), none()),
        KeyForm::Tables(name) => list(&table(name)),
        KeyForm::TextsOrTables(name) => {
            let element = either(text(), table(name));
            json!({ "anyOf": [text(), table(name), list(&element)] })
        }
        KeyForm::TruthOrTexts => json!({ "anyOf": [{ "type": "boolean" }, text(), list(&text())] }),
        KeyForm::Ports => {
            let element = either(json!({ "type": "integer", "minimum": 1, "maximum": 65_535 }), text());
            json!({ "anyOf": [element, list(&element)] })
        }
    }
}
