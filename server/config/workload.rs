//! Reads the section `workload_manager` of a service.
//!
//! The section comes from `sections`, with its places; a [`Workload`] goes to the checker.

use config_file::{At, Fault};

use super::Workload;
use super::checker::Checker;
use super::sections::WorkloadSection;
use super::values::{only, required, size, within};

impl Checker<'_> {
    pub(super) fn workload(&mut self, section: At<WorkloadSection>) -> Result<Workload, Fault> {
        const MOST: i64 = i32::MAX as i64;
        let At {
            value: section,
            place,
        } = section;
        let jobs = section.max_jobs_per_thread;
        if let Some(jobs) = jobs.as_ref().filter(|jobs| jobs.value != 1) {
            self.warn(&jobs.place, "has no effect: each worker serves one client");
        }
        let jobs = within(jobs, 1, 1, MOST)?;
        let allowed: &[&str] = match section.r#type.value.as_str() {
            "dynamic" => &[
                "recommended",
                "min",
                "max_free",
                "max_threads",
                "inactivity",
            ],
            "constant" => &["threads", "jobs"],
            _ => return Err(section.r#type.fault("expected dynamic or constant")),
        };
        only(
            &section.r#type,
            allowed,
            &[
                (
                    "recommended",
                    section
                        .recommended_jobs_per_thread
                        .as_ref()
                        .map(|at| &at.place),
                ),
                (
                    "min",
                    section.min_free_jobs_capacity.as_ref().map(|at| &at.place),
                ),
                (
                    "max_free",
                    section.max_free_jobs_capacity.as_ref().map(|at| &at.place),
                ),
                (
                    "max_threads",
                    section.max_threads.as_ref().map(|at| &at.place),
                ),
                (
                    "inactivity",
                    section.inactivity_timeout.as_ref().map(|at| &at.place),
                ),
                ("threads", section.threads.as_ref().map(|at| &at.place)),
                ("jobs", section.jobs.as_ref().map(|at| &at.place)),
            ],
        )?;
        if section.r#type.value == "constant" {
            let threads = match (section.threads, section.jobs) {
                (Some(_), Some(jobs)) => {
                    return Err(jobs.fault("means the same as `threads`, which is also given"));
                }
                (threads, jobs) => required(threads.or(jobs), "threads", &place)?,
            };
            let threads = size(within(Some(threads), 1, 1, MOST)?);
            return Ok(Workload {
                spare: threads,
                max_workers: threads,
            });
        }
        // Only checked, without effect: a worker has one client.
        within(section.recommended_jobs_per_thread, 1, 1, jobs)?;
        let min = required(
            section.min_free_jobs_capacity,
            "min_free_jobs_capacity",
            &place,
        )?;
        let min = within(Some(min), 0, 0, MOST)?;
        // `max_free_jobs_capacity` and `inactivity_timeout` are only checked, without effect: no more than
        // `min_free_jobs_capacity` workers are ever idle, so none has to be retired.
        let max_free = required(
            section.max_free_jobs_capacity,
            "max_free_jobs_capacity",
            &place,
        )?;
        within(Some(max_free), min, min, MOST)?;
        within(section.inactivity_timeout, 15, 1, MOST)?;
        let max_threads = required(section.max_threads, "max_threads", &place)?;
        let max_workers = size(within(Some(max_threads), 1, 1, MOST)?);
        Ok(Workload {
            spare: size(min).min(max_workers),
            max_workers,
        })
    }
}
