//! The tables of the papers on MNIST, rerun: methods at the papers' 26,000 queries and at what they have on the way there,
//! last and best epoch, over seeds, and the queries that each needs to reach an accuracy.
//!
//! | module | what it is |
//! |---|---|
//! | [`studies`] | the jobs |
//! | [`tables`] | figures over seeds |
//! | [`plot`] | accuracy against queries |

mod plot;
mod studies;
mod tables;

use anyhow::ensure;

use crate::cli::PapersArgs;
use crate::data_set::DataSet;
use crate::mnist::runs::{Run, Runs};
use crate::mnist::teacher::{Recipe, Teacher};
use crate::mnist::{JobRun, check_names, is_wanted};
use crate::places::{Places, publish_in, write};
use studies::STUDIES;

/// Runs what was not run yet, and publishes the tables of everything that ever was.
pub(crate) fn run(places: &Places, args: &PapersArgs) -> anyhow::Result<()> {
    ensure!(!args.seeds.is_empty(), "expected at least one seed");
    check_names(&args.only, STUDIES.map(|study| study.name))?;
    let data = DataSet::mnist(places, &args.data)?;
    for &seed in &args.seeds {
        for study in STUDIES.iter().filter(|study| is_wanted(&args.only, study.name)) {
            let run = match study.kept(&places.results(), seed)? {
                Some(run) => run,
                None => {
                    let teacher = Teacher::trained(places, &data, &Recipe::PUBLISHED)?;
                    let job = JobRun {
                        places,
                        teacher: &teacher,
                        name: study.run_name(seed),
                    };
                    let (summary, ..) = job.finish(|url| study.job(&data, url, seed))?;
                    Run::new(study.name, seed, study.students(&summary)?)
                }
            };
            // After each job, and read anew: two calls may share the seeds between them.
            let mut runs = Runs::load(&places.results(), "papers")?;
            runs.put(run);
            publish(places, &runs)?;
        }
    }
    Ok(())
}

fn publish(places: &Places, runs: &Runs) -> anyhow::Result<()> {
    let text = format!("{}\n{}", tables::accuracies(runs), tables::prices(runs));
    write(&places.results().join("papers.svg"), &plot::svg(runs)?)?;
    publish_in(&places.results(), "papers", &text, &serde_json::to_value(runs)?)
}
