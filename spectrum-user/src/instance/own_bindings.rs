//! What the proxy must know of the bindings, so that no connection is dialled back to this instance. The plan decides where an
//! address leads; the proxy, what it makes of that.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use crate::plan::Plan;
use spectrum_proxy::OwnBindings;
use spectrum_steering::host;

/// The bindings of `plans`, all of them while one follows another, as the origins' thread asks them.
pub(crate) fn own_bindings(plans: Vec<Arc<Plan>>) -> anyhow::Result<OwnBindings> {
    let interfaces = interface_addresses()?;
    let known = interfaces.clone();
    Ok(OwnBindings::new(
        move |service, address, port, record| {
            plans
                .iter()
                .flat_map(|plan| crate::plan::hops(plan, service, address, port, record, &interfaces))
                .collect()
        },
        move || {
            interface_addresses().unwrap_or_else(|error| {
                tracing::debug!("{error:#}");
                known.clone()
            })
        },
    ))
}

fn interface_addresses() -> anyhow::Result<BTreeSet<IpAddr>> {
    Ok(host::interface_addresses()?.into_iter().map(|interface| interface.address).collect())
}
