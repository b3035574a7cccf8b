"""The networks, as plain torch modules. Each forward pass is written once, here; `model_builder/graph` traces it."""
