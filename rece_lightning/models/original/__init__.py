"""The original layout of Stable Diffusion: one file, the names of the code that the models were trained with.

WebUIs read it and model sites share it. Its names follow the layers one after another (``input_blocks.4.1``) where
diffusers groups them into blocks (``down_blocks.1.attentions.0``). A few tensors have another form too. SD 1.x, 2.x
and XL share the names of U-Net and autoencoder; their text encoders differ. An inpainting model has the same names.
"""
