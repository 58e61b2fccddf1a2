//! What an origin has come to by hand, as people read it. Sets nothing.

use std::io::{self, Write};

use crate::control::SetOriginAnswer;
use crate::view::{OriginPlan, OriginView};

/// Writes a line for each address, and whether the service is left without any.
pub(super) fn write(answer: &SetOriginAnswer, out: &mut dyn Write) -> io::Result<()> {
    let SetOriginAnswer { service, origins, serves } = answer;
    for row in origins {
        let OriginView { plan, address, open, .. } = row;
        let OriginPlan { origin, weight, .. } = plan;
        let at = match address {
            Some(address) if address != origin => format!(" at {address}"),
            _ => String::new(),
        };
        writeln!(out, "{service} {origin}{at}: {}, weight {weight}, {open} open", row.condition_line())?;
    }
    if !serves {
        writeln!(out, "no origin of {service} gets new connections now: they end as dial-down")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use spectrum_proxy::OriginCondition;

    #[test]
    fn each_address_has_a_line_and_a_service_without_any_is_told_of() {
        let row = |address: &str, weight, by_hand| {
            let condition = if weight == 0 { OriginCondition::Drained } else { OriginCondition::Down };
            let up = OriginView::up_at(address);
            OriginView {
                plan: OriginPlan { weight, ..up.plan },
                by_hand,
                condition,
                open: 3,
                ..OriginView::up_at(address)
            }
        };
        let origins =
            vec![row("192.0.2.1:80", 0, true), row("192.0.2.2:80", 2, true), row("192.0.2.3:80", 1, false)];
        let mut written = Vec::new();
        write(&SetOriginAnswer { service: "web".into(), origins, serves: false }, &mut written).unwrap();
        assert_eq!(
            String::from_utf8(written).unwrap(),
            "web web.example:80 at 192.0.2.1:80: drained by hand, weight 0, 3 open\n\
             web web.example:80 at 192.0.2.2:80: down, weight by hand, weight 2, 3 open\n\
             web web.example:80 at 192.0.2.3:80: down, weight 1, 3 open\n\
             no origin of web gets new connections now: they end as dial-down\n"
        );
    }
}
