//! `health`: one bit for a container's health check.
//!
//! *Owns* the time limit. *Never* depends on the other process: each says of itself whether it serves.
//! *Invariant*: exit 0 exactly if the process answered in time that it serves.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;
use tonic_health::pb::health_check_response::ServingStatus;

use crate::admin::{Admin, Need};
use crate::arguments::{Arguments, Output};
use crate::failure::Failure;
use crate::show::json;
use crate::show::screen::{Screen, Tint};

/// For connecting and asking together.
const LIMIT: Duration = Duration::from_secs(2);

pub(super) async fn run(arguments: &Arguments, screen: &mut Screen<'_>) -> Result<ExitCode, Failure> {
    let asking = async { Admin::connect(arguments, Need::Maybe, LIMIT).await?.health().await };
    let status = match tokio::time::timeout(LIMIT, asking).await {
        Ok(status) => status?,
        Err(_) => return Err(Failure::NoAnswer { address: arguments.address.clone(), within: LIMIT }),
    };
    let serves = status == ServingStatus::Serving;
    if arguments.output == Output::Json {
        json::write_value(screen, &json!({ "status": status.as_str_name() }))?;
    } else {
        let (text, tint) = if serves { ("serving", Tint::Good) } else { ("not serving", Tint::Bad) };
        let text = screen.paint(tint, text);
        screen.line(text)?;
    }
    Ok(if serves { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
