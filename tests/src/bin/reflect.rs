//! `reflect ADDRESS TOKEN`: what an operator's grpcurl would do, as a program.
//!
//! Knows no proto file. Asks the server by reflection (v1 and v1alpha) what it serves, prints the services, and calls
//! `proxy.admin.v1.ConnectionService/Audit`. Exit 1 where anything of that fails, a refused token included; 2 on wrong
//! usage.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line program")]

use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use e2e::Admin;
use serde_json::json;

const SERVICE: &str = "proxy.admin.v1.ConnectionService";

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (Some(address), Some(token), None) = (arguments.next(), arguments.next(), arguments.next()) else {
        eprintln!("usage: reflect ADDRESS TOKEN");
        return ExitCode::from(2);
    };
    match ask(&address, token).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("reflect: {address}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn ask(address: &str, token: String) -> Result<()> {
    let address = address.parse().context("the address is not IP:PORT")?;
    let admin = Admin::new(address, Some(token))?;
    let services = admin.services().await.context("reflection v1")?;
    ensure!(services.iter().any(|name| name == SERVICE), "{SERVICE} is not served: {services:?}");
    let mut older = admin.services_v1alpha().await.context("reflection v1alpha")?;
    older.sort();
    let mut sorted = services.clone();
    sorted.sort();
    ensure!(older == sorted, "v1 lists {sorted:?}, v1alpha {older:?}");
    for name in &services {
        println!("{name}");
    }
    let audit = admin.call(&format!("{SERVICE}/Audit"), &json!({})).await.context("Audit")?;
    println!("audit: balanced {}", audit["balanced"]);
    ensure!(audit["laws"].as_array().is_some_and(|laws| !laws.is_empty()), "the audit lists no law");
    Ok(())
}
