DROP TABLE tenant_quotas, task_bounds, downgrades;
