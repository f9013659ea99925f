//! `machine regenerate-certs`: new server certificates for hosts, a new client certificate, or another authority.

use clap::Args;
use machine_driver::HostName;

use super::hosts::{self, Named};
use crate::{
    lifecycle::{self, Context, MovePlan},
    ui::{Failure, Outcome, Report, Ui},
};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    named: Named,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Renew the client certificate as well
    #[arg(long)]
    client_certs: bool,
    /// Move the hosts, or without a name all hosts of the store, to the authority that signs for new ones: the one of
    /// `--tls-ca-cert`, or the store's own, which is made anew if it has expired
    #[arg(long, conflicts_with = "client_certs")]
    authority: bool,
}

pub(super) fn run(context: &Context, ui: &Ui, arguments: &Arguments) -> Result<Report, Failure> {
    let status = if arguments.authority {
        move_hosts(context, ui, arguments)?
    } else {
        renew(context, ui, arguments)?
    };
    Ok(Report::status(status))
}

fn renew(context: &Context, ui: &Ui, arguments: &Arguments) -> Result<u8, Failure> {
    let names = hosts::resolve(&context.store, &arguments.named.names)?;
    if !agreed(ui, arguments, "Regenerate TLS machine certs?  Warning: this is irreversible. (y/n): ")? {
        return Ok(0);
    }
    if arguments.client_certs {
        ui.say("Regenerating local certificates");
        let report = lifecycle::regenerate_client(context)?;
        for (name, reason) in &report.left_alone {
            ui.say(&format!("({name}) keeps its client certificate: {reason}"));
        }
    }
    ui.say("Regenerating TLS certificates");
    hosts::for_each(ui, &names, |name| async move {
        let lane = ui.lane(name.as_str());
        match lifecycle::regenerate_server(context, &name, &lane).await {
            Ok(()) => {
                lane.finish(Outcome::Done, "Certificates renewed");
                Ok(())
            }
            Err(error) => {
                lane.finish(Outcome::Failed, "");
                Err(error.into())
            }
        }
    })
}

fn agreed(ui: &Ui, arguments: &Arguments, question: &str) -> Result<bool, Failure> {
    if arguments.force {
        return Ok(true);
    }
    ui.confirm(question).ok_or_else(|| {
        Failure::text("Nobody answered the question").with_hint("Say yes beforehand with `--force`")
    })
}

fn move_hosts(context: &Context, ui: &Ui, arguments: &Arguments) -> Result<u8, Failure> {
    let names = match arguments.named.names.as_slice() {
        [] => None,
        names => Some(hosts::resolve(&context.store, names)?),
    };
    let plan = lifecycle::plan_move(context, names.as_deref())?;
    if plan.makes_new.is_none() && plan.hosts.is_empty() && plan.unfinished.is_empty() {
        ui.say("All hosts are of this authority, and trust no other");
        return Ok(0);
    }
    for line in explained(&plan) {
        ui.say(&line);
    }
    if !agreed(ui, arguments, "Go on? (y/n): ")? {
        return Ok(0);
    }
    let to = lifecycle::authority_to_move_to(context, &mut |made| match made {
        lifecycle::Made::Authority(path) => ui.say(&format!("Creating CA: {}", path.display())),
        lifecycle::Made::Client(path) => ui.say(&format!("Creating client certificate: {}", path.display())),
    })?;
    let to = &to;
    let moved = hosts::for_each(ui, &plan.hosts, |name| async move {
        let lane = ui.lane(name.as_str());
        match lifecycle::move_host(context, &name, to, &lane).await {
            Ok(()) => {
                lane.finish(Outcome::Done, "Moved; it trusts the authority before as well");
                Ok(())
            }
            Err(error) => {
                lane.finish(Outcome::Failed, "");
                Err(error.into())
            }
        }
    })?;
    if moved == super::INTERRUPTED {
        return Ok(moved);
    }
    // Those of earlier runs may have waited for these.
    let unfinished = lifecycle::plan_move(context, None)?.unfinished;
    let finished = hosts::for_each(ui, &unfinished, |name| async move {
        let lane = ui.lane(name.as_str());
        match lifecycle::finish_move(context, &name, &lane).await {
            Ok(None) => {
                lane.finish(Outcome::Done, "Trusts its new authority alone");
                Ok(())
            }
            Ok(Some(waiting)) => {
                let text =
                    format!("Trusts both authorities until these have been moved: {}", waiting.join(", "));
                lane.finish(Outcome::Done, &text);
                Ok(())
            }
            Err(error) => {
                lane.finish(Outcome::Failed, "");
                Err(error.into())
            }
        }
    })?;
    Ok(moved.max(finished))
}

/// What is going to happen, for whoever is asked.
fn explained(plan: &MovePlan) -> Vec<String> {
    let list = |names: &[HostName]| names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let mut lines = Vec::new();
    if let Some(reason) = &plan.makes_new {
        lines.push(format!("{reason}: a new authority is made; the one before is kept beside it"));
    }
    if !plan.hosts.is_empty() {
        lines.push(format!(
            "These hosts get certificates of the other authority, one by one: {}. Containers keep running, except where \
             dockerd has to be restarted for it.",
            list(&plan.hosts)
        ));
        lines.push("Until all have been moved, they trust both.".to_owned());
    }
    if !plan.unfinished.is_empty() {
        lines.push(format!(
            "These have been moved already, and cease to trust the authority before as soon as no host is left with it: {}",
            list(&plan.unfinished)
        ));
    }
    lines
}
