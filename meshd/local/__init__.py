"""What this node announces of what is there: subnets of interfaces, while checks find them well."""
