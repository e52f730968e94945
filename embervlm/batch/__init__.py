"""From records to tensors: encode (labels are shifted and masked there and nowhere else), targets, collate, dataset."""
