//! `embeval report`.

use std::path::PathBuf;

use super::print;
use crate::store::folder::read_json;
use crate::store::record::RunRecord;

/// Arguments of `report`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The run's folder.
    run: PathBuf,
    /// Folder of the report (default reports/NAME).
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    let record: RunRecord = read_json(&args.run.join("record.json"))?;
    let folder = args.output.clone().unwrap_or_else(|| PathBuf::from("reports").join(&record.name));
    crate::report::write(&record, &folder)?;
    print(&folder.join("README.md").display().to_string())
}
