"""An `Architecture` made into `torch.nn.Module`s, folded for deployment, and loaded from checkpoints."""
