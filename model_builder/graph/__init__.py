"""A network as data, and its interpreters.

::

    networks/*.py --trace.py--> description.Graph --> fake_quantized.py   torch, for training with simulated integers
                                                  --> reference.py        NumPy, exact: what every engine has to compute
                                                  --> onnx.py             ONNX Runtime, OpenVINO
                                                  --> relax.py            TVM, with VNNI

No interpreter knows a network or a layer by its name.
"""
